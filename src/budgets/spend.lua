-- What replicas have spent in one term: a field for each, which only grows. Amounts are decimals of up to 39 digits, for
-- which Redis' own integers are too small; the longer one is the larger.
--
-- KEYS[1]: the term. ARGV: when it is forgotten (milliseconds since the Unix epoch); then replica and amount, each.
-- Gives every replica's amount.
for i = 2, #ARGV, 2 do
  local name, amount = ARGV[i], ARGV[i + 1]
  local there = redis.call('HGET', KEYS[1], name) or ''
  if #amount > #there or (#amount == #there and amount > there) then
    redis.call('HSET', KEYS[1], name, amount)
  end
end
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
