-- What an orchestrator is about to ask of the cloud: written before the call, found by a successor.
--
-- KEYS  1 term (hash: epoch, run of the latest term)  2 intent (hash: desired, from, at, epoch, run)
-- ARGV  epoch, run, not after (ms, by Redis's clock), ask, then for 'write': desired, from
--         read   answers what stands there
--         write  replaces it
--         drop   removes it
-- Returns {'fenced'} when the latest term is another one, and nothing was done; {'late'}: asked so long ago that the
--       asker has given up by now; {'found', desired, from, age in ms}, {'none'} or {'done'}.

local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if now > tonumber(ARGV[3]) then return { 'late' } end

local term = redis.call('HMGET', KEYS[1], 'epoch', 'run')
if term[1] ~= ARGV[1] or term[2] ~= ARGV[2] then return { 'fenced' } end

local ask = ARGV[4]
if ask == 'read' then
    local intent = redis.call('HMGET', KEYS[2], 'desired', 'from', 'at')
    local at = tonumber(intent[3] or '')
    if not intent[1] or not intent[2] or not at then return { 'none' } end
    return { 'found', intent[1], intent[2], string.format('%.0f', math.max(0, now - at)) }
end
if ask == 'write' then
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[2], 'desired', ARGV[5], 'from', ARGV[6], 'at', string.format('%.0f', now),
        'epoch', ARGV[1], 'run', ARGV[2])
    -- One that nobody found for an hour says nothing any more.
    redis.call('PEXPIRE', KEYS[2], 3600000)
else
    redis.call('DEL', KEYS[2])
end
return { 'done' }
