from collections.abc import Callable

class Pen:
    fd: int
    pid: int
    lending: bool

    def __init__(self, fd: int, pid: int, look_every: int, accept: Callable[[], object], /) -> None: ...
    def take(self) -> int: ...
    def write(self, *fields: str | int | None) -> int: ...
