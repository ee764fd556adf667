-- The gateway's own fields in a whole answer that passes by Envoy alone: what extproc/answer.py adds to one it reads.
--
-- In: an answer's text, the counts that Envoy read in its `usage` (by dotted path), and what is told of the request. Out:
-- the same text byte for byte, but for the members that are set. Pure. The text is JSON and an object with a `usage`:
-- Envoy has read it before.

local QUOTE, BACKSLASH = 34, 92
local OPENS = { [91] = true, [123] = true } -- [ {
local COLON, COMMA = 58, 44

-- The index of the closing quote of the string that begins `at` its opening one.
local function string_end(text, at)
  local last = at
  while true do
    last = text:find('"', last + 1, true)
    local before = last - 1
    while text:byte(before) == BACKSLASH do
      before = before - 1
    end
    if (last - before) % 2 == 1 then
      return last
    end
  end
end

-- Where the members of an object are: { first, last } byte of each value by name, and the index of the closing brace.
local function members(text)
  local found, depth, at, name, first = {}, 0, 0, nil, nil
  while true do
    at = text:find('[%[%]{},:"]', at + 1)
    local what = text:byte(at)
    if what == QUOTE then
      local last = string_end(text, at)
      if depth == 1 and not first then
        name = text:sub(at + 1, last - 1)
      end
      at = last
    elseif OPENS[what] then
      depth = depth + 1
    elseif what == COLON then
      first = depth == 1 and at + 1 or first
    else
      if depth == 1 and first then
        found[name] = { first, at - 1 }
        first = nil
      end
      depth = what == COMMA and depth or depth - 1
      if depth == 0 then
        return found, at
      end
    end
  end
end

-- An object with members set to what is in `values`, pairs of a name and JSON or what makes it of the old value's: in
-- their old places, else at its end.
local function with(text, values)
  local found, brace = members(text)
  local places, more = {}, {}
  for _, value in ipairs(values) do
    local name, json = value[1], value[2]
    local place = found[name]
    if place then
      places[#places + 1] = { place[1], place[2], type(json) == "function" and json(text:sub(place[1], place[2])) or json }
    else
      more[#more + 1] = '"' .. name .. '":' .. json
    end
  end
  table.sort(places, function(one, other)
    return one[1] < other[1]
  end)
  local out, at = {}, 1
  for _, place in ipairs(places) do
    out[#out + 1] = text:sub(at, place[1] - 1)
    out[#out + 1] = place[3]
    at = place[2] + 1
  end
  out[#out + 1] = text:sub(at, brace - 1)
  if #more > 0 then
    out[#out + 1] = (next(found) and "," or "") .. table.concat(more, ",")
  end
  out[#out + 1] = text:sub(brace)
  return table.concat(out)
end

local MOST_TOKENS = 1e12 -- as in extproc/adapters/usage.py

-- A token count: whatever is not a natural number is none.
local function natural(count)
  return type(count) == "number" and count >= 1 and count < math.huge and math.min(math.floor(count), MOST_TOKENS) or 0
end

local function first_of(counts, names)
  for _, name in ipairs(names) do
    local count = natural(counts[name])
    if count > 0 then
      return count
    end
  end
  return 0
end

-- What was used, as extproc/adapters/usage.py reads it.
local function used(counts)
  local input, output = natural(counts["prompt_tokens"]), natural(counts["completion_tokens"])
  local reasoning = first_of(counts, { "completion_tokens_details.reasoning_tokens", "reasoning_tokens" })
  if reasoning > 0 and input + output + reasoning == natural(counts["total_tokens"]) then
    output = output + reasoning
  end
  return {
    input = input,
    output = output,
    reasoning = reasoning,
    cached = first_of(counts, { "prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens" }),
    written = first_of(counts, {
      "prompt_tokens_details.cache_write_tokens",
      "prompt_tokens_details.cache_creation_tokens",
      "cache_creation_input_tokens",
    }),
    written_long = natural(counts["prompt_tokens_details.cache_write_long_tokens"]),
  }
end

-- What that costs, in nano-USD, or nil: extproc/pricing.py. `rates`: its `rates` of the model.
local function cost(usage, rates)
  local rate, over = nil, -1
  for tier in rates:gmatch("[^;]+") do
    local limit = tonumber(tier:match("%S+"))
    if not rate then
      rate = tier -- what holds where no other does
    elseif usage.input > limit and limit > over then
      rate, over = tier, limit
    end
  end
  local cached = math.min(usage.cached, usage.input)
  local written = math.min(usage.written, usage.input - cached)
  local written_long = math.min(usage.written_long, written)
  local reasoning = math.min(usage.reasoning, usage.output)
  local tokens = { usage.input - cached - written, cached, written - written_long, written_long, usage.output - reasoning, reasoning }
  local pico, index = 0, 0
  for per_token in rate:match("%S+ (.*)"):gmatch("%S+") do
    index = index + 1
    if tokens[index] > 0 then
      if per_token == "-" then
        return nil
      end
      pico = pico + tokens[index] * tonumber(per_token)
    end
  end
  return (pico - pico % 1000) / 1000 + (pico % 1000 > 0 and 1 or 0)
end

local function usd(nano)
  return nano and ("%.0f.%09.0f"):format((nano - nano % 1e9) / 1e9, nano % 1e9) or "null"
end

local function quoted(text)
  return '"' .. text:gsub('["\\]', "\\%0") .. '"'
end

-- An answer with the gateway's fields. `told`: model, provider, routed_from (as JSON), request_id, routing_decision,
-- gateway_ms, total_ms, attempts, rates.
local function with_fields(text, counts, told)
  local usage = used(counts)
  local function set_usage(old)
    return with(old, {
      { "input_tokens", ("%.0f"):format(usage.input) },
      { "output_tokens", ("%.0f"):format(usage.output) },
      { "cost_usd", usd(cost(usage, told.rates)) },
    })
  end
  local metadata = '{"request_id":%s,"routing_decision":%s,"cache_hit":false,'
    .. '"gateway_latency_ms":%.3f,"total_latency_ms":%.3f,"attempts":%d}'
  return with(text, {
    { "model", quoted(told.model) },
    { "routed_from", told.routed_from },
    { "provider", quoted(told.provider) },
    { "usage", set_usage },
    {
      "gateway_metadata",
      metadata:format(quoted(told.request_id), quoted(told.routing_decision), told.gateway_ms, told.total_ms, told.attempts),
    },
  })
end
