-- Says that a replica is there. KEYS: the set of replicas. ARGV: our name, after how many ms one is gone, a time in ms.
-- Gives: the time in ms, how many there are, and how many of them have said so since that time.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return { now, redis.call('ZCARD', KEYS[1]), redis.call('ZCOUNT', KEYS[1], ARGV[3], '+inf') }
