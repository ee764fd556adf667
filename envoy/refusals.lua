-- A refusal with the status of a wrong request may be another model's to answer: Envoy must be told that it may be tried
-- again.
--
-- In: a provider's 400 or 413. Out: the same answer; with a header that the route retries on, if it is a refusal
--   1. for the prompt's length, and the worker has marked the request as one that a larger model may take (dynamic metadata
--      `gw`, key `roomier`). The next attempt then carries that header to the worker behind the loopback, which chooses;
--   2. for the operator's account or for a model that is no more, of which the client's request can do nothing.
-- An upstream filter of the chains: only there is an answer seen before the router decides about a retry. The phrases are
-- those of extproc/adapters/failures.py.

local TOO_LONG = "$too_long"
local OURS = "$ours"
local LENGTH_SIGNS = { $length_signs }
local OUR_SIGNS = { $our_signs }
local MOST = 65536 -- bytes of a refusal that are looked at

local function says(text, signs)
  for _, sign in ipairs(signs) do
    if text:find(sign, 1, true) then
      return true
    end
  end
  return false
end

function envoy_on_request(handle)
  local attempt = handle:streamInfo():dynamicMetadata():get("$attempt")
  if attempt and attempt["too_long"] then
    handle:headers():replace(TOO_LONG, "1")
  end
end

function envoy_on_response(handle)
  local status = handle:headers():get(":status")
  if status ~= "400" and status ~= "413" then
    return
  end
  local decided = handle:streamInfo():dynamicMetadata():get("$decided")
  local body = decided and handle:body()
  if not body then
    return
  end
  local text = body:getBytes(0, math.min(body:length(), MOST)):lower()
  -- Asked for anew: what was had before the wait for the body is no longer ours.
  if says(text, OUR_SIGNS) then
    handle:headers():replace(OURS, "1")
  elseif handle:streamInfo():dynamicMetadata():get("$decided")["$roomier"] and says(text, LENGTH_SIGNS) then
    handle:streamInfo():dynamicMetadata():set("$attempt", "too_long", true)
    handle:headers():replace(TOO_LONG, "1")
  end
end
