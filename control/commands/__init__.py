"""Commands that ask a running gateway over its API, like any other client.

client    one gateway: a call is JSON out, or an error of one line
options   where it is and whose key is used; errors to exit codes
show      figures as people read them
usage, teams, keys, requests, export, top    the commands
"""
