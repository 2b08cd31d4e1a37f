-- Writes one node's projection: its record, its streams and legs, and peers that it has found dead.
--
-- KEYS  1 schema  2 nodes  3 streams  4 legs  5 drains-under-way  6 workers
-- ARGV  schema, forget after (ms: records of offline nodes and silent workers that old are removed), node, the node record as last written (or ''), full ('1': remove whatever of this node is not
--       listed), release ('1': free this node's place among the drains under way), the new node record, then lists,
--       each led by its number of items:
--         streams to set (name, record), streams to remove (name),
--         legs to set (leg, record), legs to remove (leg), dead peers (node, record)
-- Returns {'resync'} when the node record is not what this node wrote last (Redis lost it, or another node took this
--       one for dead): nothing was written, and everything has to be sent again. Otherwise {'ok', highest schema seen,
--       entries that could not be read, names of streams that stay with another node, whose claim is better}.

local next_arg = 0
local function take()
    next_arg = next_arg + 1
    return ARGV[next_arg]
end
local function times() return tonumber(take()) end

local unreadable = 0
local function decode(text)
    if not text then return nil end
    local ok, value = pcall(cjson.decode, text)
    if ok and type(value) == 'table' then return value end
    unreadable = unreadable + 1
    return nil
end

local schema, forget_after, node, expected = take(), tonumber(take()), take(), take()
local full, release, record = take() == '1', take() == '1', take()

if not full and (redis.call('HGET', KEYS[2], node) or '') ~= expected then
    return { 'resync' }
end

local highest = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
if highest < tonumber(schema) then
    redis.call('SET', KEYS[1], schema)
    highest = tonumber(schema)
end

redis.call('HSET', KEYS[2], node, record)
if release then redis.call('HDEL', KEYS[5], node) end

local result = { 'ok', highest, 0 }

-- Of two claims the one whose bytes grow, then the one of the later generation; clocks are never compared.
local function is_better(old, new)
    local old_flows, new_flows = old.flowing == true, new.flowing == true
    if old_flows ~= new_flows then return old_flows end
    return (tonumber(old.claim) or 0) > (tonumber(new.claim) or 0)
end

local kept_streams = {}
for _ = 1, times() do
    local name, stream = take(), take()
    local old = decode(redis.call('HGET', KEYS[3], name))
    if old and old.owner ~= node and is_better(old, decode(stream) or {}) then
        result[#result + 1] = name
    else
        redis.call('HSET', KEYS[3], name, stream)
    end
    kept_streams[name] = true
end
for _ = 1, times() do
    local name = take()
    local old = decode(redis.call('HGET', KEYS[3], name))
    if old and old.owner == node then redis.call('HDEL', KEYS[3], name) end
end

local kept_legs = {}
for _ = 1, times() do
    local leg, text = take(), take()
    redis.call('HSET', KEYS[4], leg, text)
    kept_legs[leg] = true
end
for _ = 1, times() do
    local leg = take()
    local old = decode(redis.call('HGET', KEYS[4], leg))
    if old and old.node == node then redis.call('HDEL', KEYS[4], leg) end
end

local dead, any_dead = {}, false
for _ = 1, times() do
    local peer, text = take(), take()
    redis.call('HSET', KEYS[2], peer, text)
    dead[peer] = true
    any_dead = true
end

-- The whole table is walked only on a first write and when a peer has died.
local function sweep(key, holder, kept)
    local entries = redis.call('HGETALL', key)
    for i = 1, #entries, 2 do
        local name, old = entries[i], decode(entries[i + 1])
        local of_nobody = old and redis.call('HEXISTS', KEYS[2], old[holder] or '') == 0
        if old and (of_nobody or dead[old[holder]] or (full and old[holder] == node and not kept[name])) then
            redis.call('HDEL', key, name)
        end
    end
end
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000
local function forget(key, is_over)
    local entries = redis.call('HGETALL', key)
    for i = 1, #entries, 2 do
        local old = decode(entries[i + 1])
        if old and not dead[entries[i]] and is_over(old) and type(old.updated) == 'number' and now - old.updated > forget_after then
            redis.call('HDEL', key, entries[i])
        end
    end
end
if full or any_dead then
    forget(KEYS[2], function(old) return old.state == 'offline' end)
    sweep(KEYS[3], 'owner', kept_streams)
    sweep(KEYS[4], 'node', kept_legs)
    forget(KEYS[6], function() return true end)
end

result[3] = unreadable
return result
