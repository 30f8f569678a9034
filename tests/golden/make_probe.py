"""Tower features by transformers and probes on them by scikit-learn: writes probe.json and probe_features.bin beside itself.

    python make_probe.py SHARED        (torch, transformers, scikit-learn, numpy, pillow; SHARED as in EMT_SHARED)

`probe_features.bin` holds f32 numbers, low bytes first: one row an image, first the shots class by class, then the test
images. A row is the mean over the tokens that the projector of the small LLaVA consumes: the hidden state -2 of its tower
without the class token.
"""

import json
import pickle
import sys
from pathlib import Path

import numpy
import sklearn
import torch
import transformers
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

SHARED = Path(sys.argv[1])
MODEL = SHARED / "models/tiny-llava"
HERE = Path(__file__).parent
N_CLASSES, SHOTS, N_TEST = 10, [1, 5, 16], 80
STRENGTHS = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5]


def picture(row):
    return Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0))


train = numpy.fromfile(SHARED / "data/cifar10/cifar-10-batches-bin/train_subset_10000.bin", numpy.uint8).reshape(-1, 3073)
positions = [[int(at) for at in numpy.flatnonzero(train[:, 0] == label)[: SHOTS[-1]]] for label in range(N_CLASSES)]
with open(SHARED / "data/cifar10/cifar-10-batches-py/test_batch", "rb") as file:
    test = pickle.load(file, encoding="latin1")
images = [picture(train[at, 1:]) for of_class in positions for at in of_class]
images += [picture(test["data"][at]) for at in range(N_TEST)]

model = LlavaForConditionalGeneration.from_pretrained(MODEL).float().eval()
processor = CLIPImageProcessorPil.from_pretrained(MODEL)
with torch.no_grad():
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    features = states[:, 1:].mean(1).numpy().astype("<f4")
features.tofile(HERE / "probe_features.bin")

# scikit-learn's input is unit vectors in f64 throughout.
rows = normalize(features.astype(numpy.float64))
shots, tests = rows[: N_CLASSES * SHOTS[-1]].reshape(N_CLASSES, SHOTS[-1], -1), rows[N_CLASSES * SHOTS[-1] :]
first = lambda k: (shots[:, :k].reshape(N_CLASSES * k, -1), numpy.repeat(numpy.arange(N_CLASSES), k))


def logistic(x, y, strength):
    return LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(x, y)


golden = {
    "versions": {"transformers": transformers.__version__, "scikit-learn": sklearn.__version__},
    "n_columns": rows.shape[1],
    "n_classes": N_CLASSES,
    "n_shots": SHOTS[-1],
    "shots": positions,
    "n_test": N_TEST,
    "labels": test["labels"][:N_TEST],
    "nearest_mean": {},
    "knn": {},
    "logistic": {},
}
for k in SHOTS:
    x, y = first(k)
    cosines = cosine_similarity(tests, NearestCentroid().fit(x, y).centroids_)
    golden["nearest_mean"][k] = {"chosen": cosines.argmax(1).tolist(), "scores_of_first": cosines[0].tolist()}
    vote = lambda distance: numpy.exp((1 - distance) / 0.07)
    neighbours = KNeighborsClassifier(min(20, len(y)), metric="cosine", algorithm="brute", weights=vote).fit(x, y)
    shares = neighbours.predict_proba(tests)
    golden["knn"][k] = {"chosen": shares.argmax(1).tolist(), "scores_of_first": shares[0].tolist()}
    strength = 1e2
    if k > 1:
        held = max(1, k // 4)
        known, rest = shots[:, : k - held], shots[:, k - held : k]
        labels = lambda part: numpy.repeat(numpy.arange(N_CLASSES), part.shape[1])
        flat = lambda part: part.reshape(N_CLASSES * part.shape[1], -1)
        losses = [log_loss(labels(rest), logistic(flat(known), labels(known), c).predict_proba(flat(rest))) for c in STRENGTHS]
        strength = STRENGTHS[int(numpy.argmin(losses))]
    fitted = logistic(x, y, strength)
    golden["logistic"][k] = {
        "strength": strength,
        "chosen": fitted.predict(tests).tolist(),
        "scores_of_first": fitted.predict_log_proba(tests)[0].tolist(),
        "weights_of_first": fitted.coef_[0].tolist(),
        "intercepts": fitted.intercept_.tolist(),
    }
    for name in ("nearest_mean", "knn", "logistic"):
        right = numpy.mean(numpy.array(golden[name][k]["chosen"]) == golden["labels"])
        print(k, name, right, golden[name][k].get("strength"))
(HERE / "probe.json").write_text(json.dumps(golden, indent=1) + "\n")
