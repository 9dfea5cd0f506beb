"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest
import scipy.optimize
import scipy.special  # noqa: F401 -- the code loads it when it computes first: in no timed example


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of the small pretrained models; a test that needs one is skipped where they are
    not.
    """
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("ENDORM_SHARED", root.parent / "shared")) / "models"
    if not folder.is_dir():
        pytest.skip(
            f"no pretrained models in {folder}: set ENDORM_SHARED to the folder that holds models/"
        )
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """Sums over several threads are rounded in another order: bytes are the same for as many
    threads.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
