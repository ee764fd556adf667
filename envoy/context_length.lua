-- A prompt too long for a model goes to one with a larger window: Envoy must be told that this 400 may be tried again.
--
-- In: a provider's answer to an attempt. Out: the same answer; if it is a refusal for the prompt's length, and the
-- worker has marked the request as one that a larger model may take (dynamic metadata `gw`, key `roomier`), with the
-- header that the route retries on. The next attempt then carries that header to the worker behind the loopback, which
-- chooses. An upstream filter of the chains: only there is an answer seen before the router decides about a retry.
-- The phrases are those of extproc/adapters/failures.py.

local HEADER = "$header"
local PHRASES = { $phrases }
local MOST = 65536 -- bytes of a refusal that are looked at

function envoy_on_request(handle)
  local attempt = handle:streamInfo():dynamicMetadata():get("$attempt")
  if attempt and attempt["too_long"] then
    handle:headers():replace(HEADER, "1")
  end
end

function envoy_on_response(handle)
  local status = handle:headers():get(":status")
  if status ~= "400" and status ~= "413" then
    return
  end
  local decided = handle:streamInfo():dynamicMetadata():get("$decided")
  if not (decided and decided["$roomier"]) then
    return
  end
  local body = handle:body()
  if not body then
    return
  end
  local text = body:getBytes(0, math.min(body:length(), MOST)):lower()
  for _, phrase in ipairs(PHRASES) do
    if text:find(phrase, 1, true) then
      -- Asked for anew: what was had before the wait for the body is no longer ours.
      handle:streamInfo():dynamicMetadata():set("$attempt", "too_long", true)
      handle:headers():replace(HEADER, "1")
      return
    end
  end
end
