"""What holds for every test: no leaks (`tests.leaks`), and how long hypothesis searches.

IMSERVER_HYPOTHESIS chooses the search: ``quick`` (the default), or ``soak``, in which properties are soak tests, too.
"""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

pytest_plugins = ["pytester", "tests.leaks"]

SEARCH = os.environ.get("IMSERVER_HYPOTHESIS", "quick")
# Neither a deadline nor a check of speed: the machine may be busy, and a slow example is no wrong one.
settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", settings.get_profile("quick"), max_examples=2_000)
settings.load_profile(SEARCH)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties belong to ``-m soak`` when they search for long."""
    if SEARCH == "soak":
        for item in items:
            if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj):
                item.add_marker(pytest.mark.soak)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a property be parametrized: pytest-twisted wraps it for each parameter, around its wrapping for the last."""
    property_test = getattr(pyfuncitem.obj, "hypothesis", None)
    if property_test is None:
        return (yield)
    inner_test = property_test.inner_test
    try:
        return (yield)
    finally:
        property_test.inner_test = inner_test
