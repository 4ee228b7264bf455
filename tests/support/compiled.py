"""Tests that put something in the place of what a native build compiles: they run on the sources alone."""

import pytest

from tools import native

on_sources = pytest.mark.skipif(bool(native.compiled()), reason="it changes what is compiled here")
