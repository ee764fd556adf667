-- What a same-format (OpenAI) stream still needs while Envoy passes it on without Python.
--
-- In: the stream's bytes, split anywhere. Out: the same bytes, but
--   1. without the usage event, if the client did not ask for it: the gateway always asks the provider for usage
--      (`stream_options.include_usage`), and the extra event, whose `choices` is an empty list, would surprise a client;
--   2. with an error event at the end, if the provider ended the stream without `[DONE]`.
-- A chunk that is made of whole events and needs neither is passed untouched, which is the common case. An event that is
-- still incomplete waits for its end, so no byte is later than the event it belongs to. Runs when the worker has marked
-- the answer as a native stream (dynamic metadata `gw`, key `native`).

local MAX_WAIT = 1048576 -- bytes of one unfinished event; beyond it the stream is passed as it is
local EMPTY_CHOICES = '"choices"%s*:%s*%[%s*%]'
local USAGE = '"usage"%s*:%s*{'
local ERROR = '%f[^\n\r%z]data:%s*{%s*"error"' -- the provider's own last word
local CUT = '$cut_event'

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
    if not (event:find(EMPTY_CHOICES) and event:find(USAGE)) then
      kept[#kept + 1] = event
    end
    start = last + 1
    last = event_end(text, start)
  end
  return table.concat(kept), text:sub(start)
end

function envoy_on_response(handle)
  local gw = handle:streamInfo():dynamicMetadata():get("gw")
  if not gw or not gw["native"] then
    return
  end
  local hide, done, rest, last = gw["hide_usage"], false, "", nil
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local text = length > 0 and chunk:getBytes(0, length) or ""
    local joined = rest .. text
    done = done or joined:find("[DONE]", 1, true) ~= nil or joined:find(ERROR) ~= nil
    if not hide then
      rest = text:sub(-6) -- a `[DONE]` may be split over two chunks
    elseif rest ~= "" or text:sub(-2) ~= "\n\n" or text:find(EMPTY_CHOICES) then
      local kept
      kept, rest = without_usage(joined)
      if #rest > MAX_WAIT then
        kept, rest = kept .. rest, ""
      end
      chunk:setBytes(kept)
    end
    last = chunk
  end
  local tail = (hide and rest or "") .. (done and "" or CUT)
  if last and tail ~= "" then
    -- The last chunk is still ours: the iterator ends while Envoy waits for it. Not so behind trailers, which no
    -- provider sends with a stream; then nothing can be added.
    pcall(function()
      last:setBytes(last:getBytes(0, last:length()) .. tail)
    end)
  end
end
