-- Tells one window what one of its replicas has charged and taken back.
-- KEYS: the window. ARGV: our name, how long a second counts in ms, 'add' or 'all' (what follows is all that is ours),
-- seconds and tokens.
-- Gives: the time in ms; what counts, of all replicas, as a list of seconds and tokens.
local key, me, life = KEYS[1], ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[3] == 'all' then
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, #me + 1) == me .. ':' then
      redis.call('HDEL', key, field)
    end
  end
end
for at = 4, #ARGV, 2 do
  redis.call('HINCRBY', key, me .. ':' .. ARGV[at], ARGV[at + 1])
end
local fields = redis.call('HGETALL', key)
local counts, last = {}, 0
for at = 1, #fields, 2 do
  local charge, count = tonumber(string.match(fields[at], '(%d+)$')), tonumber(fields[at + 1])
  if count <= 0 or now >= charge * 1000 + life then
    redis.call('HDEL', key, fields[at])
  else
    counts[#counts + 1] = charge
    counts[#counts + 1] = count
    last = math.max(last, charge)
  end
end
if last > 0 then
  redis.call('PEXPIRE', key, last * 1000 + life - now)
end
return { now, counts }
