# The whole path on one page: which notebook runs after which, on what files.
#   disti pipeline demo                                            with checks, a lock, the table at the end
#   snakemake --cores 2 --configfile recipes/demo.yaml             the same rules, plain; --config scale=smoke steps=30
# Rules name manifests (written last) and final files: Snakemake deletes the outputs of a job that failed, and what a resumed
# stage keeps must survive. Parameters are JSON texts, compared by Snakemake; `code` is the hash of the stage's code.
import sys
from disti.check import processes_of
from disti.looks import asks_written, model_digests
from disti.names import score_folder
from disti.recipe import data_files, evaluation_files, general_files, job, job_values, made_from, main_student, read_recipe, resolve_recipe, value
from disti.results import results_of, written_from
from disti.scales import models_measured, sets_of, teachers_of
from disti.stage import resource, stage_code, stage_params

by_hand = dict(workflow.config_settings.config or {})  # --config KEY=VALUE goes above the recipe, like --set
recipe = resolve_recipe(config if "students" in config else read_recipe("demo"), sets=by_hand)

DIGESTS = recipe.get("digests") or model_digests(recipe)  # of model folders that the recipe names: other weights, other results

RUN = f"{recipe['artifacts']}/{recipe['run']}"
TRAINED = recipe["teacher"] == "train"  # else the teacher is a cross-encoder's folder or hub name
FOLDS = range(value(recipe, "teach", "n_folds")) if TRAINED else []
STUDENTS = recipe["students"]
MAIN = main_student(recipe)  # the one that cases, gap and report look at
TEACHERS = teachers_of(recipe)  # the first is the one that students without `scores` learn from
MODELS = models_measured(recipe)
SETS = sets_of(recipe)  # further collections, on which every model but the teachers is measured
DEMO = recipe["collection"] == "demo"
DATA = [f"{file}.meta.json" if DEMO else str(file) for file in data_files(recipe)]
MINED = [f"{RUN}/hard-negative/{name}.jsonl.meta.json" for name in ("groups", "leaks", "candidates-dev", "candidates-test")]
MINED += [f"{RUN}/hard-negative/model.json.meta.json"]  # the student's record, which every later stage takes
WRITTEN = [f"{RUN}/{place}.meta.json" for place, stage, _ in results_of(recipe) if stage == "synthesize"]
HERE = recipe["collection"]
BASE = value(recipe, "cases", "model_a")  # what it is compared with, query by query


def told(stage, student="", /, **fixed):  # a job's parameters and the hash of its code, which depends on their values
    values = job(recipe, stage, student, **fixed)
    return {"stage": stage, "values": values, "code": stage_code(stage, values)}


STAGE = f"{sys.executable} -m disti run {{params.stage}} --variant '{{params.variant}}' --gpus {{resources.gpu}} --json {{params.values:q}} 2>&1"


wildcard_constraints:
    model="|".join(MODELS),
    student="|".join(["untrained", *STUDENTS]),
    fold=r"\d+",
    collection="|".join(SETS) or "none",


FINAL = [f"{RUN}/results/{name}" for name in ("measures.jsonl", "comparison.md", "comparison.json", "report.html", "report.html.meta.json")]


rule all:  # what lies between is asked for too: Snakemake would not miss it once the end is there
    input:
        FINAL,
        [f"{RUN}/{place}.meta.json" for place, _, _ in results_of(recipe)],


if DEMO:

    rule demo_data:
        output: DATA
        params: folder=recipe["data_dir"], code=stage_code(resource("nbs/01b_docstrings.ipynb"))
        shell: f"{sys.executable} -m disti demo-data --data-dir {{params.folder:q}} 2>&1"


    for name in [each for each in SETS if each.startswith("demo-")]:  # the demo's questions about one package

        rule:
            name: f"data_{name}"
            input: DATA
            output: [f"{file}.meta.json" for file in evaluation_files(recipe, name)]
            params: folder=recipe["data_dir"], package=name.removeprefix("demo-")
            shell: f"{sys.executable} -m disti demo-data --data-dir {{params.folder:q}} --slices {{params.package}} 2>&1"


if WRITTEN:  # training queries, from the corpus

    rule synthesize:
        input: DATA, list(map(str, written_from(recipe)))
        output: WRITTEN
        params: variant="", model=DIGESTS.get("model", ""), **told("synthesize")
        threads: recipe["threads"]
        priority: 10
        resources: gpu=1
        shell: STAGE


rule mine:
    input: DATA, WRITTEN
    output: MINED
    params: variant="", model=" ".join(DIGESTS[key] for key in ("model", "mine.dense_model", "mine.filter_teacher") if key in DIGESTS), **told("mine")
    threads: recipe["threads"]
    priority: 9
    resources: gpu=1
    shell: STAGE


if asks_written(recipe):  # queries about passages that nobody asked about

    rule write:
        input: MINED, DATA
        output: [f"{RUN}/written/{name}.jsonl.meta.json" for name in ("queries", "ledger")]
        params: variant="", model=DIGESTS.get("write.writer", ""), **told("write")
        threads: recipe["threads"]
        priority: 8
        resources: gpu=1
        shell: STAGE


rule teach:  # one half of the queries each: every query is scored by the teacher that has not seen it
    input: MINED
    output: RUN + "/models/teacher-{fold}.meta.json"
    params: variant="{fold}", model=DIGESTS.get("teach.model", ""), **told("teach")
    threads: recipe["threads"] * processes_of(recipe, "teach")
    priority: 8
    resources: gpu=processes_of(recipe, "teach")
    shell: STAGE + " -p fold {wildcards.fold}"


def shares_of(teacher):  # a job a part, where several machines score
    values = job_values(recipe, "score", scorer=teacher)
    kept = {key: value for key, value in values.items() if key in stage_params("share")}
    return [kept | {"part": part} for part in range(values.get("parts", 1)) if values.get("parts", 1) > 1]


def parts_of(teacher):
    return [f"{RUN}/{score_folder(teacher)}/parts/{each['part']}-of-{each['parts']}.sqlite.meta.json" for each in shares_of(teacher)]


def model_of(teacher):
    return DIGESTS.get("teacher" if teacher == "teacher" else f"teachers.{teacher.removeprefix('teacher-')}", "")


def devices_of(teacher):
    return max(1, len(job_values(recipe, "score", scorer=teacher).get("devices", "").split()))


def scores_of(teacher):
    return [f"{RUN}/{score_folder(teacher)}/{split}.jsonl.meta.json" for split in ("train", "dev", "test")]


for name in TEACHERS:
    teachers = MINED + expand(RUN + "/models/teacher-{fold}.meta.json", fold=FOLDS if name == "teacher" else [])

    for share, part in zip(shares_of(name), parts_of(name)):

        rule:
            name: f"share_{share['part']}" if name == "teacher" else f"share_{name.removeprefix('teacher-')}_{share['part']}"
            input: teachers
            output: part
            params: variant=f"{name}-{share['part']}", model=model_of(name), **told("share", **share)
            threads: recipe["threads"]
            priority: 7
            resources: gpu=devices_of(name)
            shell: STAGE

    rule:
        name: "score" if name == "teacher" else f"score_{name.removeprefix('teacher-')}"
        input: teachers, parts_of(name)
        output: scores_of(name)
        params: variant=name, model=model_of(name), **told("score", scorer=name)
        threads: recipe["threads"]
        priority: 7
        resources: gpu=devices_of(name)
        shell: STAGE


def setting(student, key):  # wherever the recipe says it: of the student, of its stage, at the top; "" where its stage has none
    stage = STUDENTS[student]["stage"]
    return value(recipe, stage, key, student) if key in stage_params(stage) else ""


def taught_by(student):  # the teacher that a student, or the one that it was made from, learns from; else the first
    if scores := setting(student, "scores"):
        return f"teacher-{scores}"
    source = made_from(recipe, student)
    return taught_by(source) if source else "teacher"


for name, entry in STUDENTS.items():

    rule:
        name: f"student_{name}"
        input:
            MINED,
            {"distill": scores_of(taught_by(name)), "align": DATA}.get(entry["stage"], []),
            WRITTEN if setting(name, "asked_by") else [],
            list(map(str, general_files(recipe, name))),
            [f"{RUN}/models/{other}.meta.json" for other in [made_from(recipe, name)] if other],
            rules.write.output if asks_written(recipe, name) else [],
        output: f"{RUN}/models/{name}.meta.json"
        params: variant=name, models=[DIGESTS[key] for key in DIGESTS if key.startswith(f"{name}.")], **told(entry["stage"], name)
        threads: recipe["threads"] * processes_of(recipe, entry["stage"], name)
        priority: 6
        resources: gpu=processes_of(recipe, entry["stage"], name)  # a device each
        shell: STAGE


def trained(wildcards):  # the manifest of a student; the untrained one has none
    name = dict(wildcards).get("student") or wildcards.model
    return [f"{RUN}/models/{name}.meta.json"] if name in STUDENTS else []


rule student_score:
    input: MINED, trained
    output: [f"{RUN}/student-score/{{student}}-{split}.jsonl.meta.json" for split in value(recipe, "score", "splits").split()]
    params: variant="{student}", **told("score")
    threads: recipe["threads"]
    resources: gpu=1
    shell: STAGE + " -p scorer {wildcards.student}"


def before(wildcards):  # the teacher's ranking goes on with the untrained student's; a student stands between the two
    whose = wildcards.model if wildcards.model in TEACHERS else taught_by(wildcards.model) if wildcards.model in STUDENTS else "teacher"
    others = {"untrained": [], "bm25": ["untrained"]}.get(wildcards.model, ["untrained", whose])
    others = ["untrained"] if wildcards.model in TEACHERS else others
    scores = [] if wildcards.model == "bm25" else scores_of(whose)
    return scores + [f"{RUN}/results/{other}/{HERE}/measures.jsonl.meta.json" for other in others]


rule evaluate:
    input: MINED, trained, before
    output: RUN + "/results/{model}/" + HERE + "/measures.jsonl.meta.json"
    params: variant="{model}", **told("evaluate")
    threads: recipe["threads"]
    resources: gpu=1
    shell: STAGE + " -p model_name {wildcards.model}"


def on_set(wildcards):  # the collection, and for others than the two the untrained student's results on it
    first = [] if wildcards.model in ("untrained", "bm25") else [f"{RUN}/results/untrained/{wildcards.collection}/measures.jsonl.meta.json"]
    made = DEMO and wildcards.collection.startswith("demo-")
    return first + [f"{file}.meta.json" if made else str(file) for file in evaluation_files(recipe, wildcards.collection)]


if SETS:

    rule evaluate_set:
        input: MINED, trained, on_set
        output: RUN + "/results/{model}/{collection}/measures.jsonl.meta.json"
        params: variant="{model}-{collection}", **told("evaluate")
        threads: recipe["threads"]
        resources: gpu=1
        shell: STAGE + " -p model_name {wildcards.model} -p collection {wildcards.collection}"


if "quantize" in recipe["stages"]:  # what fewer bits cost

    rule quantize:
        input: rules.score.output, [f"{RUN}/models/{name}.meta.json" for name in [value(recipe, "quantize", "model_name")] if name in STUDENTS]
        output: f"{RUN}/benchmark/quantize-{value(recipe, 'quantize', 'model_name')}.json.meta.json"
        params: variant=value(recipe, "quantize", "model_name"), **told("quantize")
        threads: recipe["threads"]
        resources: gpu=1
        shell: STAGE


rule cases:
    input: expand(rules.evaluate.output, model=[BASE, MAIN]), scores_of(taught_by(MAIN))
    output: f"{RUN}/case-study/cases.jsonl.meta.json"
    params: variant="", **told("cases")
    resources: gpu=0
    shell: STAGE


rule gap:
    input: scores_of(taught_by(MAIN)), expand(RUN + "/student-score/{student}-test.jsonl.meta.json", student=[MAIN, "untrained"])
    output: f"{RUN}/gap/gap.jsonl.meta.json"
    params: variant="", **told("gap")
    resources: gpu=0
    shell: STAGE


rule compare:
    input:
        expand(rules.evaluate.output, model=MODELS),
        expand(RUN + "/results/{model}/{collection}/measures.jsonl.meta.json", model=[m for m in MODELS if m not in TEACHERS], collection=SETS),
        expand(RUN + "/models/{student}.meta.json", student=STUDENTS),
        rules.cases.output,
        rules.gap.output,
    output: FINAL
    params: variant="", **told("compare")
    resources: gpu=0
    shell: STAGE
