"""Which model answers, and which provider is left alone. Pure, but for `shared` and `watch`.

for `auto`
  conversation  what of a request says how hard it is; `features`: the same as numbers; `model`: numbers -> scores
  policy        what operator and client make of a score: rules, borders of tiers
  classify      all of it: a request -> tier, score, reason

the targets
  choose        in order, for one request
  standing      may this request go to this target now
  deadline      how long to wait for a first byte

health
  windows       attempts of the last minutes; `breaker`: circuits; `health`: both, by provider and model
  shared        between the settlers of all replicas; `watch`: from the settler to its workers
"""
