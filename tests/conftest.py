"""Eight fake CPU devices, the options that choose slow or peer tests, and the shared real data."""

import itertools
import os
import pathlib
import re
import shutil
import sys
import tempfile

# before JAX is imported; without NPROC, queued steps over fake devices starve XLA's thread pool and hang
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = ("--xla_force_host_platform_device_count=8"
                           " --xla_cpu_collective_call_terminate_timeout_seconds=20"
                           # tests compile far more than they compute: LLVM's optimizer would double their time
                           " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import pytest

DONE = itertools.count(1)

# Cases that repeat others on a network, or a recipe, that is another's but for its sizes: only with --long.
REPEATED = re.compile(
    r"test_new_save_load_and_call\[(distilbert|xlm-roberta-xl|deberta-v2|electra|ernie|spanbert)\]"
    r"|test_packed_equals_one_text_a_row\[(electra|ernie|spanbert|deberta-v3)-"
    r"|test_mask_decoder_at_places_equals_the_whole\[deberta-v[23]\]"
    r"|test_packed_mask_decoder_and_replaced_tokens_equal_unpacked\[deberta-v3\]"
    r"|test_outputs_and_gradients\[modernbert-24-"
    r"|test_a_recipe_runs_stops_and_goes_on_bit_for_bit\[(roberta|spanbert|deberta)_base"
)
CHOICES = {"peers": "compares with torch and transformers, live", "long": "takes minutes"}


def pytest_addoption(parser):
    for name, text in CHOICES.items():
        parser.addoption(f"--{name}", action="store_true", help=f"run what {text}")


def pytest_configure(config):
    # runs of one recipe, and the workers beside this one, compile the same programs: kept until the tests end
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="programs-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for name, text in CHOICES.items():
        config.addinivalue_line("markers", f"{name}: {text} (only with --{name})")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if REPEATED.search(item.nodeid):
            item.add_marker(pytest.mark.long)
    for name in CHOICES:
        if not config.getoption(f"--{name}"):
            for item in items:
                if name in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=f"needs --{name}"))


def pytest_runtest_teardown():
    """Forget compiled programs now and then: thousands of them would take gigabytes."""
    if next(DONE) % 100 == 0 and "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the repository; skips where there is none."""
    folder = pathlib.Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder
