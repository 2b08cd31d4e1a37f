-- Writes of an orchestrator: all of them, or none once its term is not the latest.
--
-- KEYS  1 term (hash: epoch, run)  then one key for each write
-- ARGV  epoch, run, then for each write
--         'put', field, value        into a hash
--         'remove', field            from a hash
--         'append', length, field, value    to a stream, capped about there
-- Returns {'written'} or {'superseded', epoch of the latest term, or '0' where Redis knows of none}.

local term = redis.call('HMGET', KEYS[1], 'epoch', 'run')
if term[1] ~= ARGV[1] or term[2] ~= ARGV[2] then return { 'superseded', term[1] or '0' } end

local at = 2
local function take()
    at = at + 1
    return ARGV[at]
end
for i = 2, #KEYS do
    local what = take()
    if what == 'put' then
        local field, value = take(), take()
        redis.call('HSET', KEYS[i], field, value)
    elseif what == 'remove' then
        redis.call('HDEL', KEYS[i], take())
    else
        local length, field, value = take(), take(), take()
        redis.call('XADD', KEYS[i], 'MAXLEN', '~', length, '*', field, value)
    end
end
return { 'written' }
