-- Says that a replica is there. KEYS: the set of replicas. ARGV: our name, after how many ms one is gone.
-- Gives: the time in ms, and who is there and has last said so when, as a list of names and times.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return { now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES') }
