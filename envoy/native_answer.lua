-- An answer in the client's own format (OpenAI's), on its way through Envoy without Python (extproc/exchange/passing.py).
--
-- Of an answer that the worker will not see (dynamic metadata `gw`, key `passing`): the headers that are the client's
-- business, those that tell it of its request, and the settler's Outcome; of a whole one also the gateway's fields in its
-- body (gateway_fields.lua). If it is not the answer that was expected, the worker is asked what becomes of it. A stream
-- (key `native`) then goes on by native_stream.lua. The three files are one script, this the last of them; what stands
-- behind a dollar sign is a name of extproc/wire.py, put in by control/render/filters.py.

local TO_CLIENT = { $to_client }
local MOST_ERROR = 1048576 -- bytes of an error that the worker is shown: nobody needs more to say what it is
local MOST_ANSWER = 1048576 -- bytes of an answer that gets fields here: a larger one would hold up all others
local WORKERS = { $workers }
local MOST_ASKED = 3
local WAIT_MS = 10000 -- for what the worker makes of an unexpected answer
local UNREAD = '$unread_body'

-- Sets the headers that `text` has in lines, each with one byte `ending` behind it.
local function set_headers(headers, text, ending)
  for name, value in text:gmatch("([^" .. ending .. "]-): ([^" .. ending .. "]*)" .. ending) do
    headers:replace(name, value)
  end
end

-- Takes off all headers but those named in `kept`.
local function keep_headers(headers, kept)
  local others = {}
  for name in pairs(headers) do
    if not kept[name] then
      others[#others + 1] = name
    end
  end
  for _, name in ipairs(others) do
    headers:remove(name)
  end
end

-- Whether a whole answer is one: it has choices, usage by that very name, and no error beside them. What looks otherwise is
-- for the worker to read: names within others are looked at too, for a text is found faster than a place in it.
local function answers(text)
  return followed(text, '"choices"', '^%s*:%s*%[%s*{') and followed(text, '"usage"', OBJECT)
    and not followed(text, '"error"', '^%s*:%s*[^%sn]')
end

-- Whether an answer may pass: a stream where one was asked for, else JSON, of which Envoy has read the usage by now; of that
-- its counts. What has none (an error, half an answer, nothing at all) is for the worker to read.
local function expected(handle, stream)
  local headers = handle:headers()
  local encoding, length = headers:get("content-encoding"), headers:get("content-length")
  if headers:get(":status") ~= "200" or length == "0" or encoding and encoding ~= "identity" then
    return false
  end
  if stream then
    local kind = (headers:get("content-type") or ""):lower() -- many a server calls its events text/plain, or nothing
    return kind:find("application/json", 1, true) ~= 1 and kind:find("text/html", 1, true) ~= 1
  end
  local counts = handle:streamInfo():dynamicMetadata():get("$usage_metadata") or {}
  return ($counted) and counts
end

-- Asks the worker that knows the request and, if it does not answer, the others, of whom each can tell by the status.
local function asked(handle, worker, message)
  local clusters = { worker }
  for _, cluster in ipairs(WORKERS) do
    if cluster ~= worker and #clusters < MOST_ASKED then
      clusters[#clusters + 1] = cluster
    end
  end
  for _, cluster in ipairs(clusters) do
    local _, reply = handle:httpCall(cluster, {
      [":method"] = "POST",
      [":path"] = "$method",
      [":authority"] = "worker",
      ["content-type"] = "application/grpc",
      ["te"] = "trailers",
    }, message, WAIT_MS)
    local first, last = (reply or ""):find("\n\n", 1, true)
    if first then
      local outcome, told = reply:sub(6, first):match("^([^\n]*)\n(.*)")
      return outcome, told, reply:sub(last + 1)
    end
  end
end

-- Who an answer is from: the target, which others answered in vain before it, its rates, what the client is told of it. All
-- but the first attempt's have it in headers from the loopback. Where the worker behind that died, they also tell how much of
-- an answer had come (`unread`); not of an error, which no provider bills.
local function origin(headers, passing)
  local bytes, status, note, target, vain, rates, told
  local unread, line = headers:get("$h_unread"), headers:get("$h_told")
  if unread then
    bytes, status, note = unread:match("^(%d+) (%S*) (.*)")
  end
  if note or line then
    local signed = "^" .. passing["$p_sign"] .. " (%d+) ([%d,]*) ([^$line_end]*)$line_end(.*)"
    target, vain, rates, told = (note or line):match(signed)
  end
  return {
    target = target or passing["$p_target"],
    vain = vain or "",
    rates = rates or passing["$p_rates"],
    told = passing["$p_told"] .. (told or "") .. "$line_end", -- HTTP takes off the last one
    unread = target and (tonumber(status) or 200) == 200 and bytes,
  }
end

-- The settler's Outcome.
local function outcome_of(from, attempts, more)
  return ('{"attempt":%d,"attempts":%d,"outrun":[%s],%s}'):format(from.target, attempts, from.vain, more)
end

-- Puts what the worker makes of an answer in its place.
local function ask_worker(handle, gw)
  local passing = gw["$passing"]
  local from = origin(handle:headers(), passing)
  handle:headers():replace("$h_target", from.target)
  local lines = { passing["$p_id"] }
  for name, value in pairs(handle:headers()) do
    lines[#lines + 1] = name .. ": " .. value
  end
  local body = handle:body(true)
  local size = body:length()
  if handle:headers():get(":status") ~= "200" then
    size = math.min(size, MOST_ERROR)
  end
  local message = table.concat(lines, "\n") .. "\n\n" .. (size > 0 and body:getBytes(0, size) or "")
  size = #message
  local prefix = string.char(0, math.floor(size / 16777216) % 256, math.floor(size / 65536) % 256, math.floor(size / 256) % 256, size % 256)
  local attempts = handle:headers():get("$h_attempts") or "1"
  local outcome, told, reply
  if not from.unread then
    outcome, told, reply = asked(handle, passing["$p_worker"], prefix .. message)
  end
  -- Asked for anew: what was had before the wait is no longer ours.
  local headers = handle:headers()
  keep_headers(headers, { [":status"] = true })
  set_headers(headers, from.told, "$line_end")
  headers:replace("$attempts", attempts)
  if reply then
    set_headers(headers, told, "\n")
    if collects(gw) and headers:get(":status") == "200" then
      collector(handle)(reply, true)
    end
  else
    headers:replace(":status", "502")
    headers:replace("content-type", "application/json")
    local bytes = from.unread and (',"unread_bytes":%d'):format(from.unread) or ""
    outcome = outcome_of(from, attempts, '"complete":true,"error_code":"$unread"' .. bytes)
    reply = UNREAD
  end
  handle:streamInfo():dynamicMetadata():set("$metadata", "$outcome", outcome)
  headers:replace("content-length", handle:body(true):setBytes(reply))
end

-- What is to be done with the body of a whole answer, `text`.
local function pass_whole(handle, gw, text, counts, attempts, rates)
  local passing, headers = gw["$passing"], handle:headers()
  local reason = finish_reason(text)
  if reason then
    handle:streamInfo():dynamicMetadata():set("$usage_metadata", "finish_reason", reason)
  end
  if collects(gw) then
    collector(handle)(text, true)
  end
  if not passing["$p_fields"] then
    return
  end
  local gateway_ms, received_ms, routed_from = passing["$p_fields"]:match("^(%S+) (%S+) (.*)")
  local now_ms = handle:timestampString(EnvoyTimestampResolution.MICROSECOND) / 1000
  local answer = with_fields(text, counts, {
    model = headers:get("x-gateway-model"),
    provider = headers:get("x-gateway-provider"),
    routed_from = routed_from,
    request_id = passing["$p_id"],
    routing_decision = headers:get("x-gateway-routing"):match("^[^;]*"),
    gateway_ms = gateway_ms,
    total_ms = math.max(gateway_ms, now_ms - received_ms), -- a clock may be set back
    attempts = attempts,
    rates = rates,
  })
  headers:replace("content-length", handle:body(true):setBytes(answer))
end

-- The text of a whole answer that may pass, or nil. Of one that is large and passes as it is nobody needs to know it.
local function read(handle, gw)
  local body = handle:body(true)
  local size = body:length()
  local fields = gw["$passing"]["$p_fields"]
  if size > MOST_ANSWER and (fields or not collects(gw)) then
    return not fields and "" or nil
  end
  local text = body:getBytes(0, size)
  return answers(text) and text or nil
end

-- What the worker would have said to the headers of an answer. Whether the answer is the one that was expected.
local function pass(handle, gw, passing)
  local stream = gw["native"]
  local counts = expected(handle, stream)
  local text = counts and (stream or read(handle, gw))
  if not text then
    ask_worker(handle, gw)
    return false
  end
  local headers = handle:headers()
  local attempts = tonumber(headers:get("$h_attempts")) or 1
  local from = origin(headers, passing)
  keep_headers(headers, TO_CLIENT)
  if stream then
    headers:remove("content-length") -- it changes on the way
  end
  set_headers(headers, from.told, "$line_end")
  headers:replace("$attempts", tostring(attempts))
  local outcome = outcome_of(from, attempts, ('"native":true,"complete":%s'):format(tostring(not stream)))
  handle:streamInfo():dynamicMetadata():set("$metadata", "$outcome", outcome)
  if not stream then
    pass_whole(handle, gw, text, counts, attempts, from.rates)
  end
  return true
end

function envoy_on_response(handle)
  local gw = handle:streamInfo():dynamicMetadata():get("$metadata") or {}
  if not gw["$passing"] then
    handle:headers():remove("$h_attempts") -- for `pass` alone
  elseif not pass(handle, gw, gw["$passing"]) then
    return
  end
  if gw["native"] then
    pass_stream(handle, gw)
  end
end
