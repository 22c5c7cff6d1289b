"""What holds for every test: no leaks (`tests.leaks`), and how long hypothesis searches.

IMSERVER_HYPOTHESIS chooses the search: ``quick`` (the default) or ``soak``.
"""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "tests.leaks"]

# Neither a deadline nor a check of speed: the machine may be busy, and a slow example is no wrong one.
settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", settings.get_profile("quick"), max_examples=20_000)
settings.load_profile(os.environ.get("IMSERVER_HYPOTHESIS", "quick"))
