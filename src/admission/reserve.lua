-- Charges a request's tokens to its windows if none is over its limit by them.
-- KEYS: windows, of one tenant. ARGV: our name, tokens, how long a second counts in ms; for each window a limit or '',
-- and one for what is ours or ''.
-- Gives: 1 if charged, else 0; the time in ms; for each window what counted before, as a list of seconds and tokens.
local me, tokens, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local second = tonumber(time[1])
local now = second * 1000 + math.floor(tonumber(time[2]) / 1000)
local charged, windows, last = 1, {}, {}
for place, key in ipairs(KEYS) do
  local fields = redis.call('HGETALL', key)
  local counts, sum, ours = {}, 0, 0
  last[place] = second
  for at = 1, #fields, 2 do
    local charge = tonumber(string.match(fields[at], '(%d+)$'))
    if now >= charge * 1000 + life then
      redis.call('HDEL', key, fields[at])
    else
      local count = tonumber(fields[at + 1])
      counts[#counts + 1] = charge
      counts[#counts + 1] = count
      sum = sum + count
      if string.sub(fields[at], 1, #me + 1) == me .. ':' then
        ours = ours + count
      end
      last[place] = math.max(last[place], charge)
    end
  end
  windows[place] = counts
  local limit, share = tonumber(ARGV[2 + 2 * place]), tonumber(ARGV[3 + 2 * place])
  if limit and sum + tokens > limit or share and ours + tokens > share then
    charged = 0
  end
end
if charged == 1 then
  for place, key in ipairs(KEYS) do
    redis.call('HINCRBY', key, me .. ':' .. second, tokens)
    redis.call('PEXPIRE', key, last[place] * 1000 + life - now)
  end
end
return { charged, now, windows }
