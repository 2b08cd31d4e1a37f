-- The lease of one role's orchestrator, and the number of its term.
--
-- KEYS  1 lease (hash that expires: node, run, epoch)  2 term (hash that stays: epoch, run, node, history, quiet)
-- ARGV  ask, node, run, number, TTL in ms
--         take     number: the floor, the highest epoch that the asker knows of
--         renew    number: the epoch it holds
--         release  number: the epoch it gives up
-- Returns {'granted', epoch, ms to wait before acting}, {'held', node, run, epoch, ms left},
--       {'lost'} or {'released'}. Epochs come as text: Lua's numbers are doubles, exact up to 2^53, and print badly.
--
-- A Redis that failed over or restarted may lack its last writes, a term among them. Its replication id is another one
-- then, or an asker knows of a later term (which another Redis gave, where there are two for a while): no lease from before is good, and the counter jumps ahead by a number drawn from the new id and the asker's run,
-- so that it gives out none that was given out already. (A server's first replica gives it a new id as well: a term ends then for
-- nothing, and the next one begins.)

local ask, node, run, number, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local function text(epoch) return string.format('%.0f', epoch) end

local lease = redis.call('HMGET', KEYS[1], 'node', 'run', 'epoch')
local holds = lease[2] == run
local held = tonumber(lease[3] or '0') or 0

if ask == 'release' then
    if holds and held == number then redis.call('DEL', KEYS[1]) end
    return { 'released' }
end

-- Where INFO is forbidden or says less, there is no history to compare; two holders of one epoch are then told apart by
-- their run ids alone.
local history = ''
local ok, info = pcall(redis.call, 'INFO', 'replication')
if ok and type(info) == 'string' then history = string.match(info, 'master_replid:(%x+)') or '' end
local term = redis.call('HMGET', KEYS[2], 'epoch', 'history', 'quiet')
local latest = tonumber(term[1] or '0') or 0
local past_lost = latest == 0 or (history ~= '' and term[2] ~= history) or (ask == 'take' and number > latest)

-- For one TTL after the past was found lost nobody may act, whoever holds the lease: until then a holder from before may.
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local wait = ttl
if not past_lost then wait = math.max(0, math.min(ttl, (tonumber(term[3] or '0') or 0) - now)) end

if ask == 'renew' then
    if past_lost or not holds or held ~= number then return { 'lost' } end
    redis.call('PEXPIRE', KEYS[1], ttl)
    return { 'granted', text(held), '0' }
end

if lease[1] and not holds and not past_lost then
    return { 'held', lease[1], lease[2], lease[3], tostring(redis.call('PTTL', KEYS[1])) }
end
if holds and held > number and not past_lost then
    redis.call('PEXPIRE', KEYS[1], ttl)
    return { 'granted', text(held), text(wait) }
end

local epoch = math.max(latest, number) + 1
if past_lost then epoch = epoch + tonumber(string.sub(redis.sha1hex(history .. run), 1, 6), 16) end
redis.call('HSET', KEYS[2], 'epoch', text(epoch), 'run', run, 'node', node, 'history', history, 'quiet', text(now + wait))
redis.call('HSET', KEYS[1], 'epoch', text(epoch), 'run', run, 'node', node)
redis.call('PEXPIRE', KEYS[1], ttl)
return { 'granted', text(epoch), text(wait) }
