"""For all tests: Hypothesis bounds the time of no example, nor of making it. A busy machine may take any. And garbage
is looked for seldom, for most of what a run loads and makes stays: a seventh of the tests' own CPU."""

import gc

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
gc.set_threshold(50_000, 20, 20)
