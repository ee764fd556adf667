-- What a stream in the client's own format (OpenAI's) still needs while Envoy passes it on without Python.
--
-- In: its bytes, split anywhere. Out: the same bytes, but
--   1. without the usage event, if the client did not ask for it: the gateway always asks the provider for usage
--      (`stream_options.include_usage`), and the extra event, whose `choices` is an empty list, or not there, would surprise
--      a client; Azure's first event is such a one too, and what it says of the prompt goes with the next;
--   2. with an error event at the end, if the provider ended the stream before it was whole or did not end it in time;
--   3. with a `delta` in the events of Azure's asynchronous filter, without which clients break (openai-python#2313);
--   4. with `[DONE]`, if it is whole by its finish_reason and the provider does not say so (ik_llama.cpp#467);
-- and, for the audit row, the last finish_reason, the last usage object that passed and whether it was cut, or ended with an
-- error, as dynamic metadata.
-- A stream whose answer is to be kept (key `record`) or told in traces (key `content`) is also left, whole and as the
-- provider sent it, in dynamic metadata for the access log: in base64, for a string there must be UTF-8 and nobody has looked at these bytes.
-- A chunk that is made of whole events and needs neither is passed untouched, which is the common case. An event that is
-- still incomplete waits for its end, so no byte is later than the event it belongs to. Called by native_answer.lua.

local FINISH = '"finish_reason"'
local FINISH_VALUE = '^%s*:%s*"([%w_]+)"'
local SPLIT = 64 -- bytes kept of what passed: a `[DONE]` or a finish_reason may be split over chunks
local MAX_WAIT = 1048576 -- bytes of one unfinished event; beyond it the stream is passed as it is
local CHOICES = '^%s*:%s*%[%s*{'
local NO_CHOICES = '^%s*:%s*%[%s*%]'
local PROMPT_FILTER = '"prompt_filter_results"%s*:%s*%b[]'
local OFFSETS = '"content_filter_offsets"'
local OBJECT = '^%s*:%s*{'
local USAGE = '"usage"%s*:%s*{'
local MAX_USAGE = 4096 -- bytes of a usage object
local ERROR = '^%s*:%s*["{]' -- the provider's own last word, whatever else the event says (OmniRoute#8210)
local FAILED = 'error' -- OpenRouter's finish_reason of an answer that is none
local DONE = '%f[^\n\r%z]data:%s*%[DONE%]' -- the event, not a model that writes of it
local MAX_STREAM = 67108864 -- bytes of a stream: what comes behind them is not passed on
local MAX_KEPT = 4194304 -- bytes of a stream whose answer is to be kept
local CUT = '$cut_event'
local DONE_EVENT = "data: [DONE]\n\n"

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

-- An event of Azure's filter, with a delta.
local function with_delta(event)
  if event:find(OFFSETS, 1, true) and not event:find('"delta"', 1, true) then
    return (event:gsub('"choices"%s*:%s*%[%s*{', '%0"delta":{},', 1))
  end
  return event
end

-- `text` without its usage events, or without any change but with_delta if not `hide`; what is left of it behind its last
-- whole event; and what Azure said ahead of the answer that did not go with an event yet. `ahead`: that, of before.
local function edited(text, hide, ahead)
  local kept, start = {}, 1
  local last = event_end(text, start)
  while last do
    local event = text:sub(start, last)
    local bare = hide and not followed(event, '"choices"', CHOICES) and not followed(event, '"error"', ERROR)
    if bare and followed(event, '"choices"', NO_CHOICES) and not followed(event, '"usage"', OBJECT) then
      ahead = event:match(PROMPT_FILTER) or ahead
    elseif not (bare and followed(event, '"usage"', OBJECT)) then
      local _, brace = event:find("^data:%s*{")
      if ahead and brace then
        event, ahead = event:sub(1, brace) .. ahead .. "," .. event:sub(brace + 1), nil
      end
      kept[#kept + 1] = with_delta(event)
    end
    start = last + 1
    last = event_end(text, start)
  end
  return table.concat(kept), text:sub(start), ahead
end

-- Whether a stream ended behind a whole event. `rest`: what is left of it; where nothing is hidden, the last bytes.
local function ends_whole(rest, hide)
  if hide then
    return not rest:find("%S")
  end
  return rest:sub(-2) == "\n\n" or rest:sub(-4) == "\r\n\r\n" or rest:sub(-2) == "\r\r"
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

-- Whether an answer is to be left for the access log.
local function collects(gw)
  return gw["record"] or gw["content"]
end

-- Collects an answer: called with each piece, and whether it is the last.
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

-- Passes a stream on. `gw`: what the worker has noted of it.
local function pass_stream(handle, gw)
  local hide, done, rest, last, size = gw["hide_usage"], false, "", nil, 0
  local failed, finished, ahead = false, false, nil
  local from = 1 -- where in `rest` a line may begin: before it stood more, of which we know the last byte alone
  local collect = collects(gw) and collector(handle)
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local text = length > 0 and chunk:getBytes(0, length) or ""
    local joined = rest .. text
    failed = failed or not done and followed(joined, '"error"', ERROR)
    done = done or failed or joined:find("[DONE]", 1, true) and joined:find(DONE, from)
    if collect then
      collect(text, done)
      collect = not done and collect
    end
    local reason = finish_reason(joined)
    if reason == FAILED then
      failed = true
    elseif reason then -- at once: a client may leave before the end
      finished = true
      handle:streamInfo():dynamicMetadata():set("$usage_metadata", "finish_reason", reason)
    end
    local keep, told = SPLIT, followed(joined, '"usage"', OBJECT)
    if told then
      local object, open = usage(joined)
      if object then
        handle:streamInfo():dynamicMetadata():set("$usage_metadata", "$usage_key", object)
      end
      if open and #joined - open < MAX_USAGE then
        keep = math.max(keep, #joined - open + 1)
      end
    end
    local azures = text:find(OFFSETS, 1, true)
    if not hide then
      if azures and (rest == "" or ends_whole(rest)) and ends_whole(text) then
        chunk:setBytes((edited(text)))
      end
      rest, from = joined:sub(-keep), #joined > keep and 2 or 1
    elseif rest ~= "" or text:sub(-2) ~= "\n\n" or told or azures or ahead or followed(text, '"choices"', NO_CHOICES) then
      local kept
      kept, rest, ahead = edited(joined, hide, ahead)
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
  local whole = finished and not gw["$several"] and size <= MAX_STREAM and ends_whole(rest, hide)
  if whole and not done and not failed then
    tail = DONE_EVENT
    if collect then
      collect("", true)
    end
  elseif failed or not done then
    handle:streamInfo():dynamicMetadata():set("$usage_metadata", "$cut_key", true)
  end
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
