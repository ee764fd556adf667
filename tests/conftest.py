"""For all tests: Hypothesis bounds the time of no example, nor of making it. A busy machine may take any."""

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
