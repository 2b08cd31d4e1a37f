-- Writes a checkpoint, unless another copy of the worker has taken over.
--
-- KEYS  1 checkpoint of this worker and stream
-- ARGV  holder, epoch, record, keep for (ms)
-- Returns {'written'} or {'superseded', epoch, holder}
--
-- Where Redis has lost the claim, or has an older one, this one is restored.

local held = redis.call('HMGET', KEYS[1], 'epoch', 'holder')
local epoch = tonumber(held[1] or '0') or 0
local own = tonumber(ARGV[2])
if epoch > own or (epoch == own and held[2] and held[2] ~= ARGV[1]) then
    return { 'superseded', string.format('%.0f', epoch), held[2] or '' }
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'holder', ARGV[1], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'written' }
