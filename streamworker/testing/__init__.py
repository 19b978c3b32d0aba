"""For the tests of a processor: run it without servers, or with a real worker on embedded ones (see pytest_plugin)."""

from streamworker.testing.without_servers import ItemRun, run_processor, run_processor_async

__all__ = ["ItemRun", "run_processor", "run_processor_async"]
