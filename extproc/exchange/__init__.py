"""One request's talk with Envoy, message by message.

server     a session for each of Envoy's streams
frames     its messages: bytes -> events, replies -> bytes; `protowire`: how a reply is encoded
exchange   the state machine: the request half and the dispatch; `states` has its table
answering  the response half
replies    what replies are made of: headers, routes, an answer of our own
upload     a request's body on its way; `room` for all of them
live       requests whose answer has not begun: where a next attempt finds its own
passing    answers that pass by Envoy alone, and those that were to and do not
relay      a stand-in's answer in another format, on its way there
"""
