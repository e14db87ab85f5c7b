"""Tests run offline: the Hub's client says so at once instead of trying for half a minute."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Workers side by side share the cores: threads that wait by spinning would take the other workers' time.
if "PYTEST_XDIST_WORKER" in os.environ:
    _workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

if "PYTEST_XDIST_WORKER" not in os.environ:  # features of test runs go into a folder of their own, gone when the tests end
    _cache = tempfile.TemporaryDirectory(prefix="hf_transfer-tests-")
    os.environ["HF_TRANSFER_CACHE"] = _cache.name
