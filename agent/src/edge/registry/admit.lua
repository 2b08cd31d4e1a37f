-- Admission: may this node begin a drain?
--
-- KEYS  1 drains-under-way  2 term of this role (hash: epoch, run)
-- ARGV  node, drain, role, minimum, not after (ms, by Redis's clock), forget after (ms), epoch and run of the plan that
--       wants it (both empty: an operator does), then the nodes of this role that serve, as the asking node knows them
-- Returns {'admitted'}, {'below', nodes that would be left}, {'superseded', epoch of the latest term: the plan is not of
--       that one}, or {'late'}: asked so long ago that the asker has given up by now (Redis was stopped meanwhile), so
--       nothing was recorded.
--
-- An entry counts only while its node is in the asker's list: one that crashed, or is known to drain, is not among
-- those that serve and blocks nothing. It is not removed for that, though, since another asker may not know yet, and
-- would count that node as serving; it goes once everybody must have heard, also where its node serves (again): then it
-- is a place that was never given back.

local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local node, drain, role = ARGV[1], ARGV[2], ARGV[3]
local minimum, not_after, forget_after = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if now > not_after then return { 'late' } end
local epoch, run = ARGV[7], ARGV[8]
if epoch ~= '' then
    local term = redis.call('HMGET', KEYS[2], 'epoch', 'run')
    if term[1] ~= epoch or term[2] ~= run then return { 'superseded', term[1] or '0' } end
end

local serving = {}
for i = 9, #ARGV do serving[ARGV[i]] = true end

local own = nil
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
    local holder = entries[i]
    local ok, slot = pcall(cjson.decode, entries[i + 1])
    if not ok or type(slot) ~= 'table' then
        redis.call('HDEL', KEYS[1], holder)
    elseif holder == node then
        own = slot.drain
    elseif slot.role == role then
        if now - (tonumber(slot.at) or 0) > forget_after then
            redis.call('HDEL', KEYS[1], holder)
        else
            serving[holder] = nil
        end
    end
end

-- The same drain asks again after its agent was restarted.
if own == drain then return { 'admitted' } end

serving[node] = nil
local left = 0
for _ in pairs(serving) do left = left + 1 end
if left < minimum then
    -- The node knows best: a place under another id is from a drain that it no longer has.
    if own then redis.call('HDEL', KEYS[1], node) end
    return { 'below', left }
end
redis.call('HSET', KEYS[1], node, cjson.encode({ drain = drain, role = role, at = now }))
return { 'admitted' }
