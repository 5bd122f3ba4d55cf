"""One thread that owns the model, and a bounded queue before it.

    queue = InferenceQueue(predictor, most_texts=2048)
    queue.submit(["很好", "太差了"]).result().answers  # as predictor.predict_batch gives them
    queue.close()  # what has been taken is finished

What waits, from all clients, is computed together: `predict_batch` puts texts of like length into one batch. An answer
is the one that `predict_batch` gives to the request alone, up to the rounding of a padded batch (1e-7 in float32).
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from data.preprocessing import clean_text, encode_texts

# Texts computed together: enough to find some of like length, few enough that a newcomer waits for a moment only.
BATCH_TEXTS = 256
LONGEST_RETRY_SECONDS = 600


class QueueFull(Exception):
    """No room for a request now; `retry_after` seconds are about what the waiting texts need."""

    def __init__(self, retry_after: int):
        super().__init__(f"排队的评论太多，请 {retry_after} 秒后再试")
        self.retry_after = retry_after


class Stopping(Exception):
    """The server is about to end and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("服务正在停止，不再接受新的请求")


@dataclass
class Answered:
    """Answers of one request, and the tokens that the model read for it (0 where nobody asked)."""

    answers: list[dict[str, Any]]
    tokens: int = 0


@dataclass
class Job:
    """Texts to predict, or with `function` anything else that needs the model for itself."""

    texts: Sequence[str] = ()
    count_tokens: bool = False
    function: Callable[[], Any] | None = None
    future: Future = field(default_factory=Future)


class InferenceQueue:
    """At most `most_texts` texts wait. `observe_batch` is told of each batch: how many texts, how many seconds."""

    def __init__(self, predictor, most_texts: int, observe_batch: Callable[[int, float], None] | None = None):
        self.predictor, self.most_texts = predictor, most_texts
        self._observe_batch = observe_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.waiting = 0  # texts, those that are being computed not included
        self._seconds_per_text = 0.0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[str], *, count_tokens: bool = False, patient: bool = False) -> Future:
        """A future of `Answered` for texts that have something visible in them.

        `QueueFull` where they find no room; with `patient` this waits for it instead. `Stopping` after `close`.
        """
        return self._put(Job(texts, count_tokens), len(texts), patient)

    def run(self, function: Callable[[], Any]) -> Future:
        """A future of what `function` returns, called when the model does nothing else; it counts as one text."""
        return self._put(Job(function=function), 1, patient=False)

    def close(self) -> None:
        """Take nothing new, finish what has been taken, end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def is_alive(self) -> bool:
        """True while texts are answered."""
        return self._thread.is_alive()

    def _put(self, job: Job, size: int, patient: bool) -> Future:
        with self._changed:
            while patient and not self._closed and self.waiting and self.waiting + size > self.most_texts:
                self._changed.wait()
            if self._closed:
                raise Stopping
            if self.waiting + size > self.most_texts and not patient:
                seconds = math.ceil(self.waiting * self._seconds_per_text)
                raise QueueFull(min(max(1, seconds), LONGEST_RETRY_SECONDS))
            self._jobs.append(job)
            self.waiting += size
            self._changed.notify_all()
        return job.future

    def _work(self) -> None:
        while jobs := self._take():
            # Whoever has gone in the meantime wants no answer any more.
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not jobs:
                continue
            if jobs[0].function is not None:
                _settle(jobs[0].future, jobs[0].function)
                continue
            began = time.perf_counter()
            self._answer(jobs)
            seconds, count = time.perf_counter() - began, sum(len(job.texts) for job in jobs)
            latest = seconds / count
            self._seconds_per_text = 0.8 * self._seconds_per_text + 0.2 * latest if self._seconds_per_text else latest
            if self._observe_batch:
                self._observe_batch(count, seconds)

    def _take(self) -> list[Job]:
        """The jobs to do next, in the order of their coming: one function, or some texts. None after the end."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            taken: list[Job] = []
            count = 0
            while self._jobs:
                job = self._jobs[0]
                if taken and (job.function or count + len(job.texts) > BATCH_TEXTS):
                    break
                taken.append(self._jobs.popleft())
                count += len(job.texts) or 1
                if job.function:
                    break
            self.waiting -= count
            self._changed.notify_all()
        return taken

    def _answer(self, jobs: list[Job]) -> None:
        try:
            answers = self.predictor.predict_batch([text for job in jobs for text in job.texts])
            tokens = [self._tokens(job.texts) if job.count_tokens else 0 for job in jobs]
        except Exception as error:
            # One request may not spoil the answers of the others.
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._answer([job])
            return
        start = 0
        for job, count in zip(jobs, tokens, strict=True):
            end = start + len(job.texts)
            job.future.set_result(Answered(answers[start:end], count))
            start = end

    def _tokens(self, texts: Sequence[str]) -> int:
        """Tokens that the model reads of these texts, prompts included. Here because a tokenizer serves one thread."""
        predictor = self.predictor
        cleaned = [clean_text(text) for text in texts]
        rows = encode_texts(predictor.tokenizer, cleaned, predictor.config.max_length, predictor.config.prompt_template)
        return sum(map(len, rows))


def _settle(future: Future, function: Callable[[], Any]) -> None:
    try:
        result = function()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)
