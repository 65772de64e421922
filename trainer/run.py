"""One training run, from a plan to a registered version, or a recorded reason why not.

1. Open the run in MLflow, with the snapshot as its input; refuse when the plan does.
2. Let the champion answer the prompts of the *select* side.
3. Train each method of the plan, cheapest first, and examine it on the same rows.
4. Choose by them; publish the adapter with its probes; register the version. The *gate* rows are
   left to `everlearn gate`: no method and no choice sees them.

The run is closed whatever happens, so every end has its reason. Nothing here touches live traffic,
and no method sees a held-out row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from everlearn.config import Service
from everlearn.errors import EverlearnError, NotEnoughEvidence, TrainingBusy, TrainingError
from everlearn.task import Task, base_model_path, heldout_grader
from registry.versions import BASE, Registry
from trainer import adapter as adapters
from trainer.checkpoint import Checkpoints, keeping
from trainer.early import METHODS, Early, answered, stopping, unstopped
from trainer.evidence import Exam, examine, mean
from trainer.lessons.rows import AUTHOR
from trainer.lock import Held, holding
from trainer.looks import Looks, looking, unwatched
from trainer.methods import Method
from trainer.methods.auto import (
    choose,
    helped,
    highest,
    little_to_gain,
    nothing_to_win,
    over_budget,
    reserved,
)
from trainer.outcome import Outcome, check_scored, describe, probe_prompts, run_params, standing
from trainer.plan import Plan, training_data
from trainer.record import begun, end, opened, outcome_of, over
from trainer.reward import Grading, reward_grader, trl_reward
from trainer.rewarding import Edits, Rewarding, shown
from trainer.rows import Row
from trainer.settings import parameters
from trainer.stream import Stream
from trainer.tracking import TrainingRun
from trainer.workbench import (
    OutOfMemory,
    Trained,
    Workbench,
    fit,
    import_trainers,
    quiet,
    seeded,
    until,
)
from trainer.workplace import Workplace

Report = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """A method that was trained and examined."""

    method: Method
    saved: Path
    exam: Exam
    seconds: float


def train(
    service: Service,
    task: Task,
    plan: Plan,
    registry: Registry,
    report: Report,
    held: Held | None = None,
) -> Outcome:
    """Carry out the plan; NotEnoughEvidence or TrainingError with the reason recorded.

    `held`: the task's lock, where the caller has it. A run of the same identity whose process died
    is taken up, any other one closed as killed.
    """
    quiet()
    if held is None:
        with holding(service, task.task) as own:
            return train(service, task, plan, registry, report, own)
    place = Workplace(service, task)
    run, known = opened(service, task, plan, held, report)
    try:
        known = known or begun(service, task, plan, run)
        held.keep(known)
        run.inputs(plan.snapshot)
        plan.check()
        place.open(fresh=known["free_bytes"] is None)
        bench = Workbench(
            task,
            base_model_path(service, task),
            place.folder,
            report,
            free_bytes=known["free_bytes"],
        )
        # What is admitted and how it is batched follows the memory that was free at first.
        held.keep({**known, "free_bytes": bench.machine.free_bytes})
        learning = _Learning(service, bench, plan, run, Means(registry, report, place, held))
        try:
            outcome = learning.version()
        finally:
            learning.close()
    except TrainingBusy:
        raise  # the run is another process's by now
    except EverlearnError as error:
        end(run, held, outcome_of(error), str(error))
        if isinstance(error, NotEnoughEvidence | TrainingError):
            over(place, held)
        raise
    except BaseException as error:
        end(run, held, "failed", str(error) or type(error).__name__)
        raise
    end(run, held, "registered", outcome.reason)
    over(place, held)
    return outcome


class Means(NamedTuple):
    """What a run works with beside its data."""

    registry: Registry
    report: Report
    place: Workplace
    held: Held


class _Learning:
    """The state of one run while it trains."""

    def __init__(
        self,
        service: Service,
        bench: Workbench,
        plan: Plan,
        run: TrainingRun,
        means: Means,
    ) -> None:
        self.service, self.bench, self.plan, self.run = service, bench, plan, run
        self.registry, self.report, self.place, self.held = means
        self.stream = Stream(run, self.report)
        self.started = time.monotonic()
        self.task = bench.task
        self.champion = self.registry.champion(self.task.task)
        self.data = training_data(plan.snapshot, self.task, self.champion.path)
        self.select = plan.snapshot.side("select")
        self.grade = Grading(self.task, service, self.task.grader(heldout_grader(self.task)))
        rewarding = reward_grader(self.task)
        self.reward = None
        if rewarding is not None:
            edits = Edits(service, self.task.task, run.run_id, self.place.folder)
            self.reward = Rewarding(service, self.task, rewarding, edits, self.report)
        self.trials: dict[str, Trial] = {}
        self.spent: list[tuple[float, float]] = []
        """(cost, seconds) of every method that ran, failed ones too."""
        self.before = Exam(())
        """The champion's."""
        self.exam_seconds = 0.0
        self.findings: dict[str, str] = {}
        """By method: why its version may not pass the gate."""
        self.parent: list[dict[str, Any]] = []
        self.left_out = dict(plan.left_out)

    def close(self) -> None:
        """End what the graders started, and send what was measured."""
        self.stream.close()
        for grading in (self.grade, self.reward):
            if grading is not None:
                grading.close()

    def version(self) -> Outcome:
        """Steps 2 to 4."""
        self.run.params(run_params(self.task, self.plan, self.champion))
        champion = self.bench.adapted(self.champion.path)
        before = self.before = self._examine(champion)
        prompts = probe_prompts(self.data, self.task.train.seed)
        self.parent = adapters.probes(champion, self.bench.tokenizer, prompts)
        self.exam_seconds = time.monotonic() - self.started
        self.report(f"champion {self.champion.version}: {describe(self.select, before)}")
        check_scored(before, self.task)
        self._check_room()
        import_trainers()
        for method in self.plan.methods:
            if self._done_before(method):
                continue
            why_not = self._spared(method) if self.plan.method == "auto" else None
            if why_not is None:
                self._attempt(method)
            else:
                self._leave_out(method, why_not)
        if not self.trials:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise TrainingError(f"task {self.task.task}: nothing could be trained: {reasons}")
        name, reason = choose({name: each.exam.scores for name, each in self.trials.items()})
        self.report(f"chosen: {reason}")
        return self._register(self.trials[name], reason, before)

    def _check_room(self) -> None:
        """NotEnoughEvidence where a scheduled training cannot make anything better. What comments
        ask for is no matter of right or wrong; a champion of another upstream was not asked."""
        rules = self.task.release
        asked = self.plan.by_schedule and rules.goal == "better"
        elsewhere = self.task.champion is not None and self.champion.version == BASE
        if not asked or elsewhere or any(row.author == AUTHOR for row in self.data.rows):
            return
        top = highest(self.task.grader(heldout_grader(self.task)))
        why = nothing_to_win(self.before.scores, top, rules.smallest_effect)
        if why is not None:
            raise NotEnoughEvidence(
                f"task {self.task.task}: nothing to learn yet: {why}; with `--method` it trains"
            )

    def _spared(self, method: Method) -> str | None:
        """Why `auto` does not try it."""
        scores = {name: each.exam.scores for name, each in self.trials.items()}
        top = highest(self.task.grader(heldout_grader(self.task)))
        nothing_left = little_to_gain(scores, top)
        if nothing_left is not None:
            return nothing_left
        too_long = over_budget(method, self.spent, self._budget(method))
        if too_long is None or method.name != "rft" or self._helped() or self._left(method) <= 0:
            return too_long
        self.report(f"rft: nothing cheaper helped: it gets the {self._left(method):.0f} s left")
        return None

    def _helped(self) -> bool:
        scores = {name: each.exam.scores for name, each in self.trials.items()}
        return helped(scores, self.before.scores)

    def _budget(self, method: Method) -> float:
        """Seconds for all up to this method."""
        budget = self.task.train.budget_minutes * 60
        return budget - (0.0 if self._helped() else reserved(method, self.plan.methods, budget))

    def _left(self, method: Method) -> float:
        """Seconds that `auto` may train by the method, so that an exam still fits."""
        took = sum(seconds for _, seconds in self.spent)
        return self._budget(method) - took - self.exam_seconds

    def _deadline(self, method: Method) -> float | None:
        """When `auto` has to stop training, on the monotonic clock."""
        return time.monotonic() + self._left(method) if self.plan.method == "auto" else None

    def _done_before(self, method: Method) -> bool:
        """Whether the process that died had finished with it."""
        done = self.place.read(method.name)
        if done is None:
            return False
        if "left_out" in done:
            self.left_out[method.name] = done["left_out"]
            return True
        exam = Exam(tuple(done["scores"]))
        self.trials[method.name] = Trial(method, self._adapter(method), exam, done["seconds"])
        self.spent.append((method.cost, done["seconds"]))
        if done["finding"]:
            self.findings[method.name] = done["finding"]
        self.report(f"{method.name}: {describe(self.select, exam)}, trained before the run died")
        return True

    def _adapter(self, method: Method) -> Path:
        return self.place.folder / f"{method.name}-adapter"

    def _leave_out(self, method: Method, reason: str) -> None:
        self.left_out[method.name] = reason
        self.place.write(method.name, {"left_out": reason})
        self.report(f"{method.name}: left out: {reason}")

    def _attempt(self, method: Method) -> None:
        """Train and examine one method; under `auto` a failure is a reason, not the end."""
        started = time.monotonic()
        try:
            trained = self._fitted(method, self.bench)
            saved = adapters.save(trained.model, self.bench, self._adapter(method))
            adapters.learned(trained.model, saved, self.champion.path, self.parent)
        except (TrainingError, NotEnoughEvidence) as error:
            if self.plan.method != "auto":
                raise
            self.spent.append((method.cost, time.monotonic() - started))
            self._leave_out(method, f"failed: {error}")
            return
        if method.name == "rft":
            self._still_judged()
        exam = self._examine(trained.model)
        seconds = time.monotonic() - started
        self.trials[method.name] = Trial(method, saved, exam, seconds)
        self.spent.append((method.cost, seconds))
        done = {"scores": exam.scores, "seconds": seconds}
        self.place.write(method.name, {**done, "finding": self.findings.get(method.name)})
        score = mean(exam.scores)
        if score is not None:
            self.stream.metrics([(f"{method.name}/heldout", score, 0)])
        self.report(f"{method.name}: {describe(self.select, exam)}, {seconds:.1f} s")

    def _fitted(self, method: Method, bench: Workbench) -> Trained:
        """Train, with half as many rows at a time as often as memory runs out."""
        name = method.name
        limit = self.place.folder / f"{name}.limit"
        while True:
            if limit.exists():
                bench = replace(bench, micro_limit=int(limit.read_text()))
            checkpoints = Checkpoints(
                self.place.folder / name, self.task.train.checkpoint_seconds, self.report
            )
            resume = checkpoints.latest()
            if resume is not None:
                self.report(f"{name}: goes on at {resume.name}")
            # Whatever ran before in this process, weights and draws begin at the same place.
            seeded(self.task.train.seed)
            trainer = method.build(self.data, bench, self._rewarded)
            looks, early = self._looks(method, bench), self._early(method, bench)
            # A look comes before the checkpoint of its step: a run taken up there has seen it.
            if looks is not None:
                trainer.add_callback(looking(looks, self.stream.metrics, model_of(trainer)))
            if early is not None:
                trainer.add_callback(stopping(early, self.stream.metrics, model_of(trainer)))
            trainer.add_callback(keeping(checkpoints, trainer, self.held.check))
            trainer.add_callback(until(self._deadline(method), name, self.report))
            try:
                trained = fit(name, trainer, self.report, resume=resume, send=self.stream.metrics)
            except OutOfMemory:
                smaller = bench.smaller(name)
                if smaller is None:
                    raise
                checkpoints.clear()
                limit.write_text(str(smaller.micro_limit))
                self.report(f"{name}: out of memory, again with half the rows at a time")
                continue
            if looks is not None:
                self._judged(looks, trained)
            used = {**parameters(bench.resolved[name]), "early_stop": early is not None}
            ended = early and early.settle(trained.model, bench.resolved[name].max_steps)
            if ended:
                self.report(ended)
                used["stopped_early"] = ended
            if name == "rft" and self.reward is not None and self.reward.edits:
                used = {**used, "reward_edits": shown(self.reward.edits)}
            self.run.params({f"{name}.{key}": value for key, value in used.items()})
            return trained

    def _looks(self, method: Method, bench: Workbench) -> Looks | None:
        """Who watches for reward hacking, where something independent can."""
        if method.name != "rft" or self.reward is None:
            return None
        why_not = unwatched(self.task, self.select)
        if why_not is not None:
            self.report(f"rft: nobody watches for reward hacking: {why_not}")
            return None
        return Looks(self.place.folder, bench, self.select, (self.reward, self.grade))

    def _early(self, method: Method, bench: Workbench) -> Early | None:
        """Who ends a supervised run that gets worse, where enough right answers are held out."""
        if method.name not in METHODS:
            return None
        rows = answered(self.select)
        why_not = unstopped(self.task.train, len(rows), bench.resolved[method.name])
        if why_not is not None:
            self.report(f"{method.name}: no early stop: {why_not}")
            return None
        return Early(method.name, self.place.folder, bench, rows)

    def _judged(self, looks: Looks, trained: Trained) -> None:
        """A run that hacked its reward goes back to its best look, and the version says so."""
        finding = looks.finding
        if finding is None:
            return
        self.report(f"rft: {finding.reason}")
        if finding.best.step == 0:
            raise TrainingError(f"rft: {finding.reason}; it was best before the first step")
        self.findings["rft"] = f"{finding.reason}; the adapter is that of step {finding.best.step}"
        looks.restore(trained.model)

    def _still_judged(self) -> None:
        """A reward whose judge lost its vote while it was learned from blocks the gate."""
        lost = self.plan.judged()
        if lost is None:
            return
        self.report(f"rft: {lost}")
        before = self.findings.get("rft")
        found = f"its judge lost its vote while it trained: {lost}"
        self.findings["rft"] = found if before is None else f"{before}; {found}"

    def _examine(self, model: Any) -> Exam:
        return examine(model, self.bench, self.grade, self.select)

    def _rewarded(self, rows: Sequence[Row]) -> Any:
        assert self.reward is not None
        return trl_reward(
            self.reward,
            rows,
            max_unscored=self.task.train.max_unscored,
            stops=self.bench.stop_ids,
            begin=self._begin,
            seen=self.stream.completions,
        )

    def _begin(self, step: int) -> None:
        """An edit of the reward is drawn on the curve, and stands in the run's record."""
        assert self.reward is not None
        if self.reward.begin(step) is not None:
            self.stream.metrics([("rft/reward_edited", 1.0, step)])

    def _register(self, trial: Trial, reason: str, before: Exam) -> Outcome:
        """Publish the adapter and make the version; `before` is the champion's exam."""
        method, snapshot_id = trial.method.name, self.plan.snapshot.snapshot_id
        prompts = probe_prompts(self.data, self.task.train.seed)
        home = self.service.data_path / "adapters"
        made = adapters.publish(trial.saved, self.bench, method, home, prompts)
        tried = [
            standing(each.method.name, self.select, each.exam, each.seconds)
            for each in self.trials.values()
        ]
        self.run.document("tried.json", {"tried": tried, "left_out": self.left_out, "why": reason})
        tags = {"method": method, "snapshot_id": snapshot_id}
        if method in self.findings:
            tags["finding"] = self.findings[method]
        self.run.tag(**tags)
        version = self.registry.register(
            self.task.task,
            made.path,
            digest=made.digest,
            model_name=made.model_name,
            run_id=self.run.run_id,
            tags={f"everlearn.{key}": value for key, value in tags.items()},
        )
        return Outcome(
            task=self.task.task,
            run_id=self.run.run_id,
            snapshot_id=snapshot_id,
            method=method,
            reason=reason,
            finding=self.findings.get(method),
            version=version.version,
            model_name=version.model_name,
            champion=standing(self.champion.version, self.select, before, 0.0),
            tried=tried,
            left_out=self.left_out,
            counts=self.plan.snapshot.counts,
            seconds=round(time.monotonic() - self.started, 1),
        )


def model_of(trainer: Any) -> Callable[[], Any]:
    """The model that the trainer trains, out of its wrappers."""
    return lambda: trainer.accelerator.unwrap_model(trainer.model)
