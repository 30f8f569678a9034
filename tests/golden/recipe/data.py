"""Training images of the miniature: four sets of (n, 32, 32, 3) bytes with class indices, their names and their words.

DATA/cifar-10-batches-bin/   data_batch_*.bin, or another *.bin of training records
DATA/cifar-100-binary/       train.bin, or another *.bin of training records
DATA/tiny-imagenet-200/      as published: train/<wnid>/images/*.JPEG
DATA/fonts/                  *.ttf and *.otf, for the digits
"""
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
DIGITS = [str(digit) for digit in range(10)]
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100 = (
    "apple,aquarium fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,butterfly,camel,can,castle,"
    "caterpillar,cattle,chair,chimpanzee,clock,cloud,cockroach,couch,crab,crocodile,cup,dinosaur,dolphin,elephant,"
    "flatfish,forest,fox,girl,hamster,house,kangaroo,keyboard,lamp,lawn mower,leopard,lion,lizard,lobster,man,"
    "maple tree,motorcycle,mountain,mouse,mushroom,oak tree,orange,orchid,otter,palm tree,pear,pickup truck,pine tree,"
    "plain,plate,poppy,porcupine,possum,rabbit,raccoon,ray,road,rocket,rose,sea,seal,shark,shrew,skunk,skyscraper,"
    "snail,snake,spider,squirrel,streetcar,sunflower,sweet pepper,table,tank,telephone,television,tiger,tractor,train,"
    "trout,tulip,turtle,wardrobe,whale,willow tree,wolf,woman,worm"
).split(",")
TINY_IMAGENET = {
    "n01443537": "goldfish", "n01629819": "salamander", "n01770393": "scorpion", "n01774750": "tarantula",
    "n01910747": "jellyfish", "n02056570": "king penguin", "n02099601": "golden retriever", "n02123394": "Persian cat",
    "n02206856": "honey bee", "n02279972": "monarch butterfly", "n02504458": "African elephant",
    "n02509815": "red panda", "n02917067": "bullet train", "n04146614": "school bus", "n04285008": "sports car",
    "n04366367": "suspension bridge", "n07747607": "orange fruit", "n07873807": "pizza", "n09193705": "alp",
    "n09428293": "seashore",
}
CLASSES = {"mnist": DIGITS, "cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet20": list(TINY_IMAGENET.values())}


def caption(name, label):
    return f'a photo of the number: "{label}".' if name == "mnist" else f"a photo of a {label}."


def with_article(label):
    return ("an " if label[0].lower() in "aeiou" else "a ") + label


def emt_question(name):
    """The paper's prompt; classes in the byte order of their folders' names."""
    noun = "number" if name == "mnist" else "object"
    labels = sorted(CLASSES[name], key=lambda label: label.replace(" ", "_").encode())
    return f"What is the {noun} in the image? Please only answer a single {noun} in {', '.join(labels)}."


def cifar(folder, n_label_bytes):
    paths = [path for path in sorted(folder.glob("*.bin")) if not path.name.startswith("test")]
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, n_label_bytes + 3072) for path in paths])
    pixels = records[:, n_label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, n_label_bytes - 1].astype(int)


def tiny_imagenet(folder):
    pixels, labels = [], []
    for label, wnid in enumerate(TINY_IMAGENET):
        for path in sorted((folder / "train" / wnid).rglob("*.JPEG")):
            pixels.append(np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.BOX)))
            labels.append(label)
    return np.stack(pixels), np.array(labels)


def usable_fonts(folder):
    """Fonts whose digits differ: symbol fonts draw the same box for all."""
    for path in sorted(folder.rglob("*.[to]tf")):
        try:
            font = ImageFont.truetype(str(path), 24)
            masks = [bytes(font.getmask(digit)) for digit in "1238"]
        except OSError:
            continue
        if all(masks) and len(set(masks)) == len(masks):
            yield str(path)


def draw_digit(digit, fonts, rng):
    """A digit as MNIST has them: slanted, wavy, 20 pixels high or wide in a frame of 28, white on black."""
    image = Image.new("L", (96, 96), 0)
    font = ImageFont.truetype(rng.choice(fonts), rng.randint(56, 72))
    ImageDraw.Draw(image).text((48, 48), str(digit), font=font, fill=255, anchor="mm", stroke_width=rng.choice([0, 0, 1, 2]))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.MinFilter(3))
    image = image.rotate(rng.gauss(0, 10), resample=Image.BICUBIC)
    shear, scale = rng.gauss(0, 0.25), rng.uniform(0.8, 1.15)
    matrix = (1 / scale, shear, 48 - 48 / scale - shear * 48, 0, 1, 0)
    image = image.transform(image.size, Image.AFFINE, matrix, resample=Image.BICUBIC)
    rows, columns = np.mgrid[0:96, 0:96]
    (phase_x, phase_y), (wave_x, wave_y) = ([rng.uniform(0, high) for _ in range(2)] for high in (6.28, 4))
    from_x = np.clip(columns + wave_x * np.sin(rows / 14 + phase_x), 0, 95).astype(int)
    from_y = np.clip(rows + wave_y * np.sin(columns / 14 + phase_y), 0, 95).astype(int)
    image = Image.fromarray(np.asarray(image)[from_y, from_x])
    box = image.getbbox()
    if not box:
        return draw_digit(digit, fonts, rng)
    image = image.crop(box)
    scale = 20 / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.LANCZOS)
    frame = Image.new("L", (28, 28), 0)
    frame.paste(image, tuple((28 - side) // 2 + rng.randint(-1, 1) for side in image.size))
    if rng.random() < 0.5:
        frame = frame.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    return np.repeat(np.asarray(frame.resize((32, 32), Image.BICUBIC))[:, :, None], 3, 2)


def digits(folder, n_images=20_000):
    rng, fonts = random.Random(0), list(usable_fonts(folder))
    return np.stack([draw_digit(i % 10, fonts, rng) for i in range(n_images)]), np.arange(n_images) % 10


def load(data):
    """By name: images and class indices."""
    data = Path(data)
    return {
        "mnist": digits(data / "fonts"),
        "cifar10": cifar(data / "cifar-10-batches-bin", 1),
        "cifar100": cifar(data / "cifar-100-binary", 2),
        "imagenet20": tiny_imagenet(data / "tiny-imagenet-200"),
    }
