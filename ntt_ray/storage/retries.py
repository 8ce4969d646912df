"""Which failures of a store pass, and how often and how soon an action is tried again."""

from __future__ import annotations

import itertools
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ntt_ray.errors import ConfigError, InputError, StorageError
from ntt_ray.storage.uris import redact

logger = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_DELAY_S = 30.0

# object stores answer these for a while when they are busy; everything else is final at once
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
_TRANSIENT_TEXT = re.compile(
    r"SlowDown|Throttl|TooManyRequests|RequestTimeout|ServiceUnavailable|InternalError|"
    r"RequestLimitExceeded|ConditionalRequestConflict|IncompleteBody|BadDigest|ContentSHA256Mismatch|FlexibleChecksum|"
    r"\b(429|500|502|503|504)\b|[Tt]imed? ?out|[Cc]onnection (reset|aborted|closed|lost)|"
    r"Connect(ion)?(Timeout|Closed)?Error|EndpointConnectionError|ServerDisconnected|"
    r"IncompleteRead|ClientPayloadError|ClientOSError"
)
_ANSWER = " Further retries may succeed:"  # behind it botocore quotes an answer that is no XML
_FINAL = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class TruncatedReadError(ConnectionError):
    """Fewer bytes came than the store had promised."""


@dataclass(frozen=True)
class Retries:
    """How often an action on a store is tried, and when.

    The delay doubles before each further attempt, up to half a minute. A random share between a
    half and all of it is waited, so that many workers do not come back at once.

    Attributes:
        attempts: how many attempts there are in all, the first included.
        first_delay_s: seconds before the second attempt.
        patience_s: seconds after the first attempt until which there are more of them.
    """

    attempts: int = 5
    first_delay_s: float = 0.5
    patience_s: float = 0.0

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Retries:
        """What ``storage_options.retries`` asks for.

        Raises:
            ConfigError: it has an unknown key or an impossible value; all problems are listed.
        """
        problems = [
            f"storage_options.retries.{key}: unknown key; known keys: attempts, first_delay_s"
            for key in sorted(options.keys() - {"attempts", "first_delay_s"})
        ]
        attempts = options.get("attempts", cls.attempts)
        if type(attempts) is not int or not 1 <= attempts <= 100:
            problems.append("storage_options.retries.attempts: a whole number from 1 to 100")
        delay_s = options.get("first_delay_s", cls.first_delay_s)
        if type(delay_s) not in (int, float) or not 0 <= delay_s <= 60:
            problems.append("storage_options.retries.first_delay_s: a number from 0 to 60")
        if problems:
            raise ConfigError("the config has problems:", problems)
        return cls(attempts, float(delay_s))

    def run(self, action: Callable[[], T], what: str) -> T:
        """Run `action`, again after failures that pass.

        Raises:
            FileNotFoundError: there is no such object; that is never tried again.
            StorageError: the last attempt failed, or the store refused.
        """
        began_at = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return action()
            except (FileNotFoundError, InputError):
                raise
            except Exception as error:  # each store brings its own exception types
                text = redact(str(error)).split(_ANSWER)[0]
                reason = f"{type(error).__name__}: {text}"
                # a cause is shown in tracebacks: not one that holds credentials, or an answer
                cause = error if text == str(error) else None
                if not is_transient(error):
                    raise StorageError(f"{what}: {reason}") from cause
                delay_s = min(self.first_delay_s * 2 ** min(attempt - 1, 32), LONGEST_DELAY_S)
                delay_s *= random.uniform(0.5, 1.0)
                left_s = began_at + self.patience_s - time.monotonic()
                if attempt >= self.attempts and left_s <= delay_s:
                    failed = StorageError(f"{what}: {reason} (after {attempt} attempts)")
                    failed.passing = True
                    raise failed from cause
                level = logging.DEBUG if attempt < self.attempts else logging.WARNING
                logger.log(level, "%s: %s; trying again in %.1f s", what, reason, delay_s)
                time.sleep(delay_s)
        raise AssertionError("unreachable")


def is_transient(error: BaseException) -> bool:
    """Whether the same action may well succeed a moment later."""
    if isinstance(error, _FINAL):
        return False
    return any(
        isinstance(link, TimeoutError | ConnectionError)
        or _status(link) in _TRANSIENT_STATUS
        or bool(_TRANSIENT_TEXT.search(f"{type(link).__name__}: {link}"))
        for link in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made of; s3fs drops the code that its cause still has."""
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def statuses(error: BaseException) -> Iterator[int]:
    """The HTTP statuses in an error and in what it was made of."""
    return (found for link in _chain(error) if (found := _status(link)) is not None)


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of botocore, aiohttp, gcsfs or Azure."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        found = [getattr(error, name, None) for name in ("status", "status_code", "code")]
    return next((number for number in found if isinstance(number, int)), None)
