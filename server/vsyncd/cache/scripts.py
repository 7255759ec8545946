"""What Redis does in one step, in Lua. Each looks first whether the feed's place is still the expected one."""

from typing import Final

# KEYS: the feed; then for each entry its name and its claim's. ARGV: the expected place; then for each entry its value
# and its milliseconds. Gives 1, or 0 when a change came between. Refused by a Redis that is full.
FILL: Final = """#!lua
local same = redis.call('GET', KEYS[1]) == ARGV[1]
for i = 2, #KEYS, 2 do
    if same then redis.call('SET', KEYS[i], ARGV[i], 'PX', ARGV[i + 1]) end
    redis.call('DEL', KEYS[i + 1])
end
return same and 1 or 0
"""

# KEYS: the feed; then the names to take out. ARGV: the expected place ('': none); the next one. Also when Redis is
# full: what is out of date has to go all the same.
MOVE: Final = """#!lua flags=allow-oom
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
