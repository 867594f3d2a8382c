"""What ssh makes of its configuration for each caller, asked in the background and remembered.

Two callers get the same connection if ssh answers both alike (`ssh -G`) and would send the same variables, whatever
else is in their environments.  The question is a command line with the environment it is asked in, less what every
process has of its own.  An answer holds until a file that ssh reads has changed; where it depends on the moment, as
with `Match exec`, it holds for HOLDS_S, and a connection is taken to be what it says only if both began at about one
time.  Nobody waits for an answer that may take long: who has none yet makes a connection of its own, which is the right
one whatever ssh says.

Source: ssh_config(5).  Tested in test_configurations.py and with a real ssh in the lab.
"""

import functools
import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hook.errors import MachineError
from hook.remote.child import Command
from hook.remote.sharing import session_options
from hook.remote.ssh import NOISE, ssh_configuration, ssh_program
from hook.remote.sshfiles import SshFiles, ssh_files

HOLDS_S = 55.0
"""How long an answer is believed that depends on the moment."""

AGAIN_S = 30.0
"""From this age on such an answer is asked for again, while it still holds."""

TOGETHER_S = 5.0
"""How far apart such an answer and the beginning of a connection may be."""

PATIENCE_S = 1.0
"""How long to wait for ssh where nothing is known to keep it."""

PAUSE_S = 0.002
MOST_ASKED = 16
"""At once; nobody waits for more."""

MOST_ANSWERS = 256

SEEN = re.compile(r"HOME|SSH_AUTH_SOCK|SSH_SK_.*|SSH_PKCS11_HELPER|KRB5.*")
"""Variables that ssh, or a library of it, looks at without saying so."""

REFERENCE = re.compile(r"\$\{?(\w+)")

PROGRAMS = ("proxycommand", "proxyjump", "knownhostscommand", "pkcs11provider", "securitykeyprovider")
"""Options by which something else runs in the caller's environment, of which ssh knows nothing."""

HARMLESS = ("none", "internal")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One answer.  Connections are alike if their `identity` is.

    `options` is what sessions that share a connection tell ssh besides; None if they must not.  `asked_at` is when ssh
    began to answer.
    """

    identity: Hashable
    options: tuple[str, ...] | None
    momentary: bool
    asked_at: float
    files: SshFiles

    def speaks_of(self, begun_at: float) -> bool:
        """Whether a connection that was begun at that time is what this answer says."""
        if self.momentary:
            return abs(self.asked_at - begun_at) <= TOGETHER_S
        return self.asked_at <= begun_at

    def holds(self, now: float) -> bool:
        """Whether it may still be believed."""
        return (not self.momentary or now - self.asked_at < HOLDS_S) and self.files.are_current()


class Configurations:
    """Answers by question; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, Configuration] = OrderedDict()
        self._asking: dict[Hashable, threading.Event] = {}
        self._files_by_default: SshFiles | None = None

    def look(self, command: Command) -> Configuration | None:
        """What is known, without waiting; what is unknown, or soon will be, is asked."""
        question = _question(command)
        with self._lock:
            answer = self._answers.get(question)
        now = self._clock()
        if answer is None or not answer.holds(now):
            self._ask(question, command, answer)
            return None
        with self._lock:
            if question in self._answers:
                self._answers.move_to_end(question)
        if answer.momentary and now - answer.asked_at > AGAIN_S:
            self._ask(question, command, answer)
        return answer

    def wait(self, command: Command, pause: Callable[[float], object]) -> Configuration | None:
        """The same, for somebody who can wait a moment; None if it may take longer than that.

        `pause` does nothing for as many seconds.
        """
        answer = self.look(command)
        if answer is not None:
            if not answer.speaks_of(self._clock()):
                self._ask(_question(command), command, answer)
            return answer
        if self._files(command.argv).momentary:
            return None
        return self._wait(command, pause, PATIENCE_S)

    def renew(self, command: Command, seconds: float) -> Configuration | None:
        """An answer that speaks of a connection begun now; None if there is none after so many seconds."""
        answer = self.look(command)
        if answer is not None:
            if answer.speaks_of(self._clock()):
                return answer
            self._ask(_question(command), command, answer)
        return self._wait(command, time.sleep, seconds)

    def scope(self, environ: Mapping[str, str]) -> Hashable:
        """Callers with equal ones are led to the same machines by one address, as far as can be told without asking."""
        files = self._files(())
        # What a mistake in them has made of a machine is over when it is corrected.
        stamps = tuple(files.stamps.items())
        if files.momentary or "-F" in environ.get("NIX_SSHOPTS", ""):
            return stamps, digest(meaningful(environ))
        # A key, an agent or a way there by a variable, or a token that is sent: who has another one fails alone.
        names = files.variables | (_matching(environ, files.sent) - NOISE)
        return stamps, tuple((name, environ.get(name)) for name in sorted(names))

    def _files(self, argv: Sequence[str]) -> SshFiles:
        """Those that ssh reads with this command line, read again only if they have changed."""
        if any(word.startswith("-F") for word in argv):
            return ssh_files(argv)
        files = self._files_by_default
        if files is None or not files.are_current():
            files = self._files_by_default = ssh_files(argv)
        return files

    def _wait(self, command: Command, pause: Callable[[float], object], seconds: float) -> Configuration | None:
        question = _question(command)
        with self._lock:
            asking = self._asking.get(question)
        end = self._clock() + seconds
        while asking is not None and not asking.is_set() and self._clock() < end:
            pause(PAUSE_S)
        with self._lock:
            answer = self._answers.get(question)
        return answer if answer is not None and answer.holds(self._clock()) else None

    def _ask(self, question: Hashable, command: Command, known: Configuration | None) -> None:
        """Unless somebody does, or has heard meanwhile: then there is another answer than the one that is `known`."""
        with self._lock:
            if question in self._asking or self._answers.get(question) is not known or len(self._asking) >= MOST_ASKED:
                return
            done = self._asking[question] = threading.Event()
        thread = threading.Thread(target=self._hear, args=(question, command, done), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._end(question, done)

    def _hear(self, question: Hashable, command: Command, done: threading.Event) -> None:
        try:
            answer = ask(command, self._clock())
            with self._lock:
                self._answers[question] = answer
                self._answers.move_to_end(question)
                while len(self._answers) > MOST_ANSWERS:
                    self._answers.popitem(last=False)
        finally:
            self._end(question, done)

    def _end(self, question: Hashable, done: threading.Event) -> None:
        with self._lock:
            del self._asking[question]
        done.set()


def ask(command: Command, now: float) -> Configuration:
    """Have ssh answer for `command`.  One that cannot is taken to look at everything, and to share nothing."""
    argv = command.argv[: command.argv.index("--")]
    files = ssh_files(argv)
    try:
        answer = ssh_configuration(command)
    except MachineError:
        return Configuration(_question(command), None, True, now, replace(files, momentary=True))
    options, elsewhere = session_options(command, answer)
    momentary = files.momentary or elsewhere or answer.get("canonicalizehostname", ["false"]) not in (["false"], ["no"])
    return Configuration(_identity(command, answer, files), options, momentary, now, files)


def _identity(command: Command, answer: Mapping[str, Sequence[str]], files: SshFiles) -> Hashable:
    environ = command.environ
    # How much it says of itself leads nowhere.
    lines = [f"{name} {value}" for name, values in answer.items() if name != "loglevel" for value in values]
    looked_at = {name for name in environ if SEEN.fullmatch(name)}
    looked_at |= {name for line in lines if "$" in line for name in REFERENCE.findall(line)}
    patterns = [word for value in answer.get("sendenv", ()) for word in value.split()]
    looked_at |= _matching(environ, patterns)
    if any(value not in HARMLESS for program in PROGRAMS for value in answer.get(program, ())):
        looked_at |= meaningful(environ).keys()
    seen = [f"{name}={environ.get(name)}" for name in sorted(looked_at)]
    stamps = [f"{path} {stamp}" for path, stamp in files.stamps.items()]
    return digest([ssh_program(environ) or "", *lines, "", *seen, "", *stamps])


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Those that match one of the patterns as ssh compares: `*` and `?` are all there is."""
    matches = _compiled(frozenset(patterns)).fullmatch
    return {name for name in names if matches(name)}


@functools.lru_cache
def _compiled(patterns: frozenset[str]) -> re.Pattern[str]:
    escaped = (re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".") for pattern in patterns)
    return re.compile("|".join(escaped) or r"(?!)", re.DOTALL)


def meaningful(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what every process has of its own."""
    return {name: value for name, value in environ.items() if name not in NOISE}


def digest(words: Mapping[str, str] | Iterable[str]) -> bytes:
    """What stands for them: an environment may have megabytes."""
    if isinstance(words, Mapping):
        words = [f"{name}={words[name]}" for name in sorted(words)]
    return hashlib.sha256(b"\0".join(map(os.fsencode, words))).digest()


def _question(command: Command) -> Hashable:
    return command.argv[: command.argv.index("--")], digest(meaningful(command.environ))
