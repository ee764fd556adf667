-- Google says in the body of a 429 how long it wants to be left alone, and in no header: put into one, where the log of
-- attempts has it, which health goes by.
--
-- In: Google's answer to an attempt. Out: the same answer; a 429 without `retry-after`, but with a RetryInfo in its body
-- (google.rpc.RetryInfo, a protobuf Duration such as "17.5s"), with that header, in whole seconds, rounded up.
-- An upstream filter of Google's clusters: only there is an answer seen before it is given up for the next attempt.

local MOST = 65536 -- bytes of a refusal that are looked at

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") ~= "429" or headers:get("retry-after") or headers:get("retry-after-ms") then
    return
  end
  local body = handle:body()
  if not body then
    return
  end
  local delay = body:getBytes(0, math.min(body:length(), MOST)):match('"retryDelay"%s*:%s*"(%d+%.?%d*)s"')
  if delay then
    handle:headers():replace("retry-after", string.format("%d", math.ceil(tonumber(delay))))
  end
end
