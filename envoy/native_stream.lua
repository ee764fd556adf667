-- What an answer in the client's own format (OpenAI's) still needs while Envoy passes it on without Python.
--
-- Of an answer that the worker will not see (dynamic metadata `gw`, key `passing`; extproc/passing.py): the headers that
-- are the client's business, those that tell it of its request, and the settler's Outcome. If it is not the answer that
-- was expected, the worker is asked what becomes of it.
--
-- Of a stream. In: its bytes, split anywhere. Out: the same bytes, but
--   1. without the usage event, if the client did not ask for it: the gateway always asks the provider for usage
--      (`stream_options.include_usage`), and the extra event, whose `choices` is an empty list, would surprise a client;
--   2. with an error event at the end, if the provider ended the stream without `[DONE]` or did not end it in time;
-- and, for the audit row, the last finish_reason and the last usage object that passed, as dynamic metadata.
-- A stream whose answer is to be kept (key `record`) or told in traces (key `content`) is also left, whole and as the
-- provider sent it, in dynamic metadata for the access log: in base64, for a string there must be UTF-8 and nobody has looked at these bytes.
-- A chunk that is made of whole events and needs neither is passed untouched, which is the common case. An event that is
-- still incomplete waits for its end, so no byte is later than the event it belongs to. Runs when the worker has marked
-- the answer as a native stream (dynamic metadata `gw`, key `native`).

local FINISH = '"finish_reason"'
local FINISH_VALUE = '^%s*:%s*"([%w_]+)"'
local SPLIT = 64 -- bytes kept of what passed: a `[DONE]` or a finish_reason may be split over chunks
local MAX_WAIT = 1048576 -- bytes of one unfinished event; beyond it the stream is passed as it is
local EMPTY_LIST = '^%s*:%s*%[%s*%]'
local OBJECT = '^%s*:%s*{'
local USAGE = '"usage"%s*:%s*{'
local MAX_USAGE = 4096 -- bytes of a usage object
local ERROR = '%f[^\n\r%z]data:%s*{%s*"error"' -- the provider's own last word
local DONE = '%f[^\n\r%z]data:%s*%[DONE%]' -- the event, not a model that writes of it
local MAX_STREAM = 67108864 -- bytes of a stream: what comes behind them is not passed on
local MAX_KEPT = 4194304 -- bytes of a stream whose answer is to be kept
local CUT = '$cut_event'
local UNREAD = '$unread_body'
local TO_CLIENT = { $to_client }
local MOST_ERROR = 1048576 -- bytes of an error that the worker is shown: nobody needs more to say what it is
local MOST_ANSWER = 1048576 -- bytes of an answer that gets fields here: a larger one would hold up all others
local WORKERS = { $workers }
local MOST_ASKED = 3
local WAIT_MS = 10000 -- for what the worker makes of an unexpected answer

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

-- The counts that Envoy has read in a whole answer.
local function counts(handle)
  return handle:streamInfo():dynamicMetadata():get("$usage_metadata") or {}
end

-- Whether an answer may pass: a stream where one was asked for, else JSON, of which Envoy has read the usage by now. What
-- has none (an error, half an answer, nothing at all) is for the worker to read.
local function expected(handle, stream)
  local headers = handle:headers()
  local encoding, length = headers:get("content-encoding"), headers:get("content-length")
  if headers:get(":status") ~= "200" or length == "0" or encoding and encoding ~= "identity" then
    return false
  end
  if stream then
    return (headers:get("content-type") or ""):find("application/json", 1, true) ~= 1
  end
  return ($counted) ~= nil
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

-- Puts what the worker makes of an answer in its place.
local function ask_worker(handle, passing)
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
  local outcome, told, reply = asked(handle, passing["$p_worker"], prefix .. message)
  -- Asked for anew: what was had before the wait is no longer ours.
  local headers = handle:headers()
  keep_headers(headers, { [":status"] = true })
  set_headers(headers, passing["$p_told"], "$line_end")
  headers:replace("$attempts", attempts)
  if reply then
    set_headers(headers, told, "\n")
  else
    headers:replace(":status", "502")
    headers:replace("content-type", "application/json")
    outcome = ('{"attempts":%d,"complete":true,"error_code":"$unread"}'):format(attempts)
    reply = UNREAD
  end
  handle:streamInfo():dynamicMetadata():set("$metadata", "$outcome", outcome)
  headers:replace("content-length", handle:body(true):setBytes(reply))
end

-- Adds the gateway's fields to a whole answer.
local function add_fields(handle, passing, attempts, rates)
  local headers, body = handle:headers(), handle:body(true)
  local gateway_ms, received_ms, routed_from = passing["$p_fields"]:match("^(%S+) (%S+) (.*)")
  local answer = with_fields(body:getBytes(0, body:length()), counts(handle), {
    model = headers:get("x-gateway-model"),
    provider = headers:get("x-gateway-provider"),
    routed_from = routed_from,
    request_id = passing["$p_id"],
    routing_decision = headers:get("x-gateway-routing"):match("^[^;]*"),
    gateway_ms = gateway_ms,
    total_ms = handle:timestampString(EnvoyTimestampResolution.MICROSECOND) / 1000 - received_ms,
    attempts = attempts,
    rates = rates,
  })
  headers:replace("content-length", body:setBytes(answer))
end

-- What the worker would have said to the headers of an answer. Whether the answer is the one that was expected.
local function pass(handle, passing, stream)
  local fields = passing["$p_fields"]
  if not expected(handle, stream) or fields and handle:body(true):length() > MOST_ANSWER then
    ask_worker(handle, passing)
    return false
  end
  local headers = handle:headers()
  local attempts = tonumber(headers:get("$h_attempts")) or 1
  local note = "^" .. passing["$p_sign"] .. " (%d+) ([^$line_end]*)$line_end(.*)"
  local target, rates, told = (headers:get("$h_told") or ""):match(note) -- of an attempt after the first
  keep_headers(headers, TO_CLIENT)
  if stream then
    headers:remove("content-length") -- it changes on the way
  end
  set_headers(headers, passing["$p_told"] .. (told or "") .. "$line_end", "$line_end") -- HTTP takes off the last one
  headers:replace("$attempts", tostring(attempts))
  local outcome = ('{"attempt":%d,"attempts":%d,"native":true,"complete":%s}'):format(target or passing["$p_target"], attempts, tostring(not stream))
  handle:streamInfo():dynamicMetadata():set("$metadata", "$outcome", outcome)
  if fields then
    add_fields(handle, passing, attempts, rates or passing["$p_rates"])
  end
  return true
end

-- Whether `name` stands in `text` with `pattern`, which begins with ^, behind it. A pattern alone is tried at every byte,
-- which for each chunk costs more than all the rest; a plain text is found by memchr.
local function followed(text, name, pattern)
  local _, at = text:find(name, 1, true)
  while at do
    if text:find(pattern, at + 1) then
      return true
    end
    _, at = text:find(name, at, true)
  end
  return false
end

-- The index of the last byte of the first event at or behind `from`, or nil: it ends with two line ends of one kind.
local function event_end(text, from)
  local best
  for _, ending in ipairs({ "\n\n", "\r\n\r\n", "\r\r" }) do
    local _, last = text:find(ending, from, true)
    if last and (not best or last < best) then
      best = last
    end
  end
  return best
end

-- `text` without its usage events, and what is left of it behind its last whole event.
local function without_usage(text)
  local kept, start = {}, 1
  local last = event_end(text, start)
  while last do
    local event = text:sub(start, last)
    if not (followed(event, '"usage"', OBJECT) and followed(event, '"choices"', EMPTY_LIST)) then
      kept[#kept + 1] = event
    end
    start = last + 1
    last = event_end(text, start)
  end
  return table.concat(kept), text:sub(start)
end

-- The last finish_reason in `text` that is not null, or nil.
local function finish_reason(text)
  local reason
  local _, at = text:find(FINISH, 1, true)
  while at do
    reason = text:match(FINISH_VALUE, at + 1) or reason
    _, at = text:find(FINISH, at, true)
  end
  return reason
end

-- The last whole usage object in `text`, or nil; and where one begins that is not whole yet, or nil.
local function usage(text)
  local found, open
  local from, brace = text:find(USAGE)
  while from do
    local whole = text:match("^%b{}", brace)
    found, open = whole or found, not whole and from or nil
    from, brace = text:find(USAGE, brace)
  end
  return found, open
end

-- Collects a stream: called with each piece, and whether it is the last.
local function collector(handle)
  local pieces, size = {}, 0
  return function(text, last)
    size = size + #text
    pieces[#pieces + 1] = size <= MAX_KEPT and text or nil
    if last and size <= MAX_KEPT then
      handle:streamInfo():dynamicMetadata():set("$answer_metadata", "$sse_key", handle:base64Escape(table.concat(pieces)))
    end
  end
end

function envoy_on_response(handle)
  local gw = handle:streamInfo():dynamicMetadata():get("$metadata") or {}
  if not gw["$passing"] then
    handle:headers():remove("$h_attempts") -- for `pass` alone
  elseif not pass(handle, gw["$passing"], gw["native"]) then
    return
  end
  if not gw["native"] then
    return
  end
  local hide, done, rest, last, size = gw["hide_usage"], false, "", nil, 0
  local collect = (gw["record"] or gw["content"]) and collector(handle)
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local text = length > 0 and chunk:getBytes(0, length) or ""
    local joined = rest .. text
    done = done or joined:find("[DONE]", 1, true) and joined:find(DONE)
      or joined:find('"error"', 1, true) and joined:find(ERROR)
    if collect then
      collect(text, done)
      collect = not done and collect
    end
    local reason = finish_reason(joined)
    if reason then -- at once: a client may leave before the end
      handle:streamInfo():dynamicMetadata():set("$usage_metadata", "finish_reason", reason)
    end
    local keep = SPLIT
    if followed(joined, '"usage"', OBJECT) then
      local object, open = usage(joined)
      if object then
        handle:streamInfo():dynamicMetadata():set("$usage_metadata", "$usage_key", object)
      end
      if open and #joined - open < MAX_USAGE then
        keep = math.max(keep, #joined - open + 1)
      end
    end
    if not hide then
      rest = joined:sub(-keep)
    elseif rest ~= "" or text:sub(-2) ~= "\n\n" or followed(text, '"choices"', EMPTY_LIST) then
      local kept
      kept, rest = without_usage(joined)
      if #rest > MAX_WAIT then
        kept, rest = kept .. rest, ""
      end
      chunk:setBytes(kept)
    end
    size = size + length
    if size > MAX_STREAM and not done then
      rest = ""
      chunk:setBytes("")
    end
    last = chunk
  end
  -- Half an event would take the error with it: it is not passed, or ended where it has been.
  local tail = done and (hide and rest or "") or (hide and "" or "\n\n") .. CUT
  if tail == "" then
    return
  end
  -- The last chunk is still ours: the iterator ends while Envoy waits for it. Not so behind trailers, which no provider
  -- sends with a stream; then nothing can be added.
  pcall(function()
    if last then
      last:setBytes(last:getBytes(0, last:length()) .. tail)
    else
      handle:body(true):setBytes(tail)
    end
  end)
end
