"""A place with rules: real commands, real deliverers."""

from __future__ import annotations

from tests.behaviour.volume.place import Place, environ_of, running, wait_until


class EventPlace(Place):
    """A place whose rules are deleted at its end, so that its deliverer ends too."""

    def deliverers(self) -> list[int]:
        """Processes that deliver this place's events."""
        wanted = f"EBSCRYPT_PATHS_STATE={self.directory / 's'}\0".encode()
        return [pid for pid in running("ebscrypt.events.deliver") if wanted in environ_of(pid)]

    def close(self) -> None:
        for rule in self.run("rule", "ls", "--output", "json").json["Rules"]:
            self.run("rule", "delete", rule["Name"])
        wait_until(lambda: not self.deliverers())
        super().close()
