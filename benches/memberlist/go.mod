module memberlist-bench

go 1.21

require github.com/hashicorp/memberlist v0.5.3
