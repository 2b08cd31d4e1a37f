-- Claim of a worker on a stream's checkpoint: of several copies the one that began last may write.
--
-- KEYS  1 checkpoint of this worker and stream, a hash: epoch, holder, record, began (ms, by Redis's clock)
-- ARGV  holder (a run's own random name), epoch that this run knows of (0: none), how long ago it began (ms), 'late'
--       when Redis was away then (or ''), keep for (ms)
-- Returns {'claimed', epoch, record or ''}, {'later', epoch} when another copy began after this late one, or
--       {'damaged', what}
--
-- Asked again by the holder (its answer was lost, or the connection), nothing changes.

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'hash' then return { 'damaged', 'a ' .. kind .. ' where a hash should be' } end
local held = redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'record')
local epoch = tonumber(held[1] or '0')
if not epoch then return { 'damaged', 'its epoch is no number' } end
if kind == 'hash' and not held[1] then return { 'damaged', 'it has no epoch' } end
local now = redis.call('TIME')
local began = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - (tonumber(ARGV[3]) or 0)
local other = tonumber(redis.call('HGET', KEYS[1], 'began') or '')
if held[2] ~= ARGV[1] and ARGV[4] == 'late' and other and other > began then
    return { 'later', string.format('%.0f', epoch) }
end
if held[2] ~= ARGV[1] then
    -- Redis may have lost its last writes: never give an epoch again that was known to be used.
    epoch = math.max(epoch, tonumber(ARGV[2])) + 1
    redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'holder', ARGV[1],
        'began', string.format('%.0f', began))
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return { 'claimed', string.format('%.0f', epoch), held[3] or '' }
