"""What every test gets: no network, no surprises from the machine, and data that is drawn the same way every time."""

import os
import socket

import pytest
from hypothesis import settings

# Before anything imports the libraries that read these
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")  # Windows without the right to make them
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"  # servers of tests are here

# The same examples everywhere, no verdict by the clock of a busy machine. `--hypothesis-profile=wide` looks further.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("wide", deadline=None, max_examples=2000)
settings.load_profile("same")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Refuse every connection that leaves this machine, so that a test cannot come to need one."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(sock, address):
        inside = sock.family not in (socket.AF_INET, socket.AF_INET6) or str(address[0]).startswith(("127.", "::1"))
        if not inside and address[0] != "localhost":
            raise RuntimeError(f"a test tried to reach {address[0]}:{address[1]}; tests need no network")

    def guarded(sock, address):
        check(sock, address)
        return connect(sock, address)

    def guarded_ex(sock, address):
        check(sock, address)
        return connect_ex(sock, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    patch.setattr(socket.socket, "connect_ex", guarded_ex)
    yield
    patch.undo()


@pytest.fixture
def unload_what_a_test_loads():
    """Leave the kernel with the models it had before: packed ones are large, and other tests count what is loaded."""
    import workbench

    before = set(map(id, workbench.loaded().values()))
    yield
    for name in [name for name, model in workbench.loaded().items() if id(model) not in before]:
        workbench.unload(name)
