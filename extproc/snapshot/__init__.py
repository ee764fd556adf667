"""What the gateway goes by at this moment: gateway.yaml, and what was changed since through the control API.

overrides  changes of teams at run time, and what a configuration is with them applied (pure)
current    the one snapshot a process holds, swapped whole (pure)
shared     the changes and their log in the shared state (Redis)
refresh    keeps a process's snapshot fresh: looks at the runtime file and at the shared state
"""
