// One member of a memberlist cluster with its LAN defaults, for the bench `detection`:
//
//	memberlist-bench NAME [SEED]
//
// It says on standard output, one line each: `up ADDRESS`, then `alive NAME MICROSECONDS` and `dead NAME MICROSECONDS`
// as it sees them, in microseconds since 1970.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/hashicorp/memberlist"
)

type events struct{}

func say(what string, node *memberlist.Node) {
	fmt.Printf("%s %s %d\n", what, node.Name, time.Now().UnixMicro())
}

func (events) NotifyJoin(node *memberlist.Node)   { say("alive", node) }
func (events) NotifyLeave(node *memberlist.Node)  { say("dead", node) }
func (events) NotifyUpdate(node *memberlist.Node) {}

func main() {
	config := memberlist.DefaultLANConfig()
	config.Name = os.Args[1]
	config.BindAddr = "127.0.0.1"
	config.BindPort = 0
	config.AdvertiseAddr = "127.0.0.1"
	config.AdvertisePort = 0
	config.Events = events{}
	config.Logger = log.New(io.Discard, "", 0)
	list, err := memberlist.Create(config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("up %s\n", list.LocalNode().Address())
	if len(os.Args) > 2 {
		if _, err := list.Join(os.Args[2:]); err != nil {
			log.Fatal(err)
		}
	}
	// Ends with whoever started it.
	_, _ = io.Copy(io.Discard, os.Stdin)
}
