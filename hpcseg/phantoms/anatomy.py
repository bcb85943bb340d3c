"""A synthetic abdomen in Hounsfield units with its liver label: the pure half of the phantoms.

Coordinates are millimetres as in `canvas`, with the origin between the organs. Every case draws its own body, organ
poses, smooth deformation, contrast phase and noise, so that intensity alone does not tell the liver from spleen,
kidney, muscle and bowel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hpcseg.phantoms.canvas import AIR, WHOLE, Canvas, Floats, Point
from hpcseg.volumes.boxes import Box

LUNG, GAS, FAT = -830.0, -960.0, -100.0  # HU
LIVER, TUMOUR = 1, 2  # label values

# HU by contrast phase: liver, spleen, kidney cortex, arteries, veins, muscle
PHASES = {
    "native": (56, 48, 32, 42, 42, 54),
    "arterial": (72, 118, 165, 300, 85, 60),
    "portal": (108, 116, 160, 150, 158, 64),
    "late": (92, 94, 130, 112, 114, 64),
}


@dataclass(frozen=True)
class Tissues:
    """Intensities of one case in HU."""

    liver: float
    spleen: float
    cortex: float
    artery: float
    vein: float
    muscle: float


@dataclass(frozen=True)
class Frame:
    """One patient in mm: half width and half depth of the body, rim of fat, muscle wall, top of the diaphragm."""

    width: float
    depth: float
    fat: float
    wall: float
    dome: float


def draw_abdomen(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: Point, top: float
) -> tuple[Floats, NDArray[np.uint8]]:
    """Draw one abdomen.

    Args:
        rng: source of everything that varies between cases.
        shape: voxels along z, y, x; z runs to the head, y to the front, x to the patient's right.
        spacing: mm along z, y, x.
        top: z of the uppermost slice in mm; the liver's centre is near 0 and the diaphragm's top near 75.

    Returns:
        volume_zyx: float32 HU, from -1000.
        label_zyx: uint8, 0 background, 1 liver, 2 tumour.
    """
    canvas = Canvas(rng, shape, spacing, top)
    tissues = _tissues(rng)
    fat = rng.uniform(8, 26)
    frame = Frame(
        width=rng.uniform(138, 156) + 0.6 * fat,
        depth=rng.uniform(96, 108) + 0.6 * fat,
        fat=fat,
        wall=rng.uniform(11, 17),
        dome=rng.uniform(66, 82),
    )
    _table(canvas, frame)
    cavity = _trunk(canvas, frame, tissues)
    _bowel(canvas, tissues)
    _vessels_and_spine(canvas, tissues)
    _spleen_and_kidneys(canvas, tissues)
    diaphragm = _diaphragm(canvas, frame)
    _liver(canvas, tissues, cavity, diaphragm)
    _thorax(canvas, frame, tissues, cavity, diaphragm)
    return _scan(canvas), canvas.label


def _tissues(rng: np.random.Generator) -> Tissues:
    phase = str(rng.choice(list(PHASES), p=[0.2, 0.15, 0.5, 0.15]))
    liver, spleen, cortex, artery, vein, muscle = (hu + rng.normal(0, 7) for hu in PHASES[phase])
    fatty = rng.uniform(15, 35) if rng.random() < 0.2 else 0.0
    return Tissues(liver - fatty, spleen, cortex, artery, vein, muscle)


def _table(canvas: Canvas, frame: Frame) -> None:
    z, y, x = np.meshgrid(*canvas.axes, indexing="ij", sparse=True)
    below = -frame.depth - 12 + x**2 / 900 - y
    width = 190 - np.abs(x) + 0 * z
    canvas.paint(WHOLE, np.minimum(np.minimum(below, 24 - below), width), 60.0)
    canvas.paint(WHOLE, np.minimum(np.minimum(below - 6, 18 - below), width - 6), -880.0)


def _trunk(canvas: Canvas, frame: Frame, tissues: Tissues) -> Floats:
    """Skin, fat, muscle wall and the fat of the belly. Returns the depth inside the cavity."""
    body = canvas.column(frame.width, frame.depth)
    canvas.paint(WHOLE, body, 20.0)
    canvas.paint(WHOLE, body - 2.0, FAT + 6 * canvas.noise())
    wall = canvas.column(frame.width - frame.fat, frame.depth - 0.8 * frame.fat, -0.15 * frame.fat)
    canvas.paint(WHOLE, wall, tissues.muscle)
    cavity = wall - frame.wall
    canvas.paint(WHOLE, cavity, FAT + 8 * canvas.noise())
    for side in (1, -1):
        canvas.paint(*canvas.ellipsoid((36 * side, -82, -20), (30, 21, 400)), tissues.muscle - 4)
        canvas.paint(*canvas.ellipsoid((38 * side, -52, -95), (17, 15, 75), tilt=8 * side), tissues.muscle)
    return cavity


def _bowel(canvas: Canvas, tissues: Tissues) -> None:
    rng = canvas.rng
    for _ in range(34):
        centre = (rng.uniform(-85, 85), rng.uniform(-15, 62), rng.uniform(-170, -48))
        radius = rng.uniform(13, 19)
        radii = (radius * rng.uniform(1, 1.8), radius, radius * rng.uniform(0.8, 1.4))
        box, depth = canvas.ellipsoid(centre, radii, turn=rng.uniform(-60, 60), tilt=rng.uniform(-60, 60))
        canvas.paint(box, depth, tissues.muscle + 30)
        canvas.paint(box, depth - 2.5, rng.uniform(10, 50))
    for side in (1, -1):
        bottom, flexure = (106.0 * side, -18.0, -175.0), (103.0 * side, -8.0, -62.0 if side > 0 else -25.0)
        sagging = (0.0, 62.0, rng.uniform(-85, -50))
        for box, depth in canvas.tube([bottom, flexure, sagging], [22, 20, 17]):
            _hollow(canvas, box, depth + 3 * np.sin(canvas.z[box] / 5 + canvas.x[box] / 7), tissues)
    centre = (rng.uniform(-72, -52), rng.uniform(28, 42), rng.uniform(10, 30))
    box, depth = canvas.ellipsoid(centre, (rng.uniform(34, 48), 34, rng.uniform(42, 56)), turn=25, tilt=-25)
    _hollow(canvas, box, depth, tissues)
    canvas.paint(*canvas.ellipsoid((-15, 12, rng.uniform(-20, 0)), (58, 13, 15), turn=12, tilt=15), tissues.liver - 18)


def _hollow(canvas: Canvas, box: Box, depth: Floats, tissues: Tissues) -> None:
    """A wall around contents, with gas above the level of the fluid as in a patient who lies on the back."""
    canvas.paint(box, depth, tissues.muscle + 15)
    canvas.paint(box, depth - 3.5, canvas.rng.uniform(5, 45))
    level = canvas.rng.uniform(15, 50)
    gas = np.minimum(depth - 3.5, canvas.y[box] - level + 6 * np.sin(canvas.x[box] / 17))
    canvas.paint(box, gas, GAS)


def _vessels_and_spine(canvas: Canvas, tissues: Tissues) -> None:
    aorta: list[Point] = [(-12, -32, -200), (-10, -30, 0), (-16, -38, 170)]
    cava: list[Point] = [(20, -30, -200), (22, -28, -20), (24, -16, 75)]
    for points, radius, hu in ((aorta, 10.5, tissues.artery), (cava, 12.0, tissues.vein)):
        for link in canvas.tube(points, [radius] * 3):
            canvas.paint(*link, hu)
    bone = canvas.rng.uniform(130, 230)
    box = canvas.around((-45, -125, -400), (45, -35, 400))
    x, y, z = canvas.x[box], canvas.y[box] + 60, canvas.z[box]
    height = np.abs(np.mod(z + canvas.rng.uniform(0, 34), 34) - 17)  # 17 mm from the middle of a disc
    vertebra = 21 - np.hypot(x * 0.88, y * 1.15) + 1.5 * np.cos(height / 5)
    canvas.paint(box, vertebra, tissues.muscle + 30)
    bony = np.minimum(vertebra, height - 4)
    canvas.paint(box, bony, bone + 120)
    canvas.paint(box, bony - 3, bone)
    arch = np.maximum(np.minimum(4.5 - np.abs(x), 21 - np.abs(y + 46)), 18 - np.hypot(x, y + 29))
    lateral = np.minimum(np.minimum(5 - np.abs(y + 27), 38 - np.abs(x)), height - 9)
    canvas.paint(box, np.maximum(np.minimum(arch, height - 2), lateral), bone + 110)
    canvas.paint(box, 9 - np.hypot(x * 0.8, y + 29), 25.0)


def _spleen_and_kidneys(canvas: Canvas, tissues: Tissues) -> None:
    rng = canvas.rng
    centre = (rng.uniform(-104, -94), rng.uniform(-38, -22), rng.uniform(12, 34))
    radii = (rng.uniform(22, 31), rng.uniform(38, 50), rng.uniform(40, 58))
    box, depth = canvas.ellipsoid(centre, radii, turn=-25, tilt=rng.uniform(-15, 10))
    canvas.paint(box, depth + 3 * canvas.noise()[box], tissues.spleen)
    for side in (1, -1):
        centre = (rng.uniform(58, 68) * side, rng.uniform(-52, -42), rng.uniform(-62, -42) - 8 * side)
        radii = (rng.uniform(23, 29), rng.uniform(24, 30), rng.uniform(46, 58))
        turn, tilt = -35.0 * side, 10.0 * side
        box, depth = canvas.ellipsoid(centre, radii, turn, tilt)
        canvas.paint(box, depth, tissues.cortex)
        canvas.paint(box, depth - 8 + 2 * np.sin(canvas.z[box] / 4), 0.6 * tissues.cortex + 15)
        hilum = (centre[0] - 12 * side, centre[1] + 8, centre[2])
        canvas.paint(*canvas.ellipsoid(hilum, (15, 9, 25), turn, tilt), FAT + 30)


def _diaphragm(canvas: Canvas, frame: Frame) -> Floats:
    """Height (mm) of every voxel above the diaphragm, a dome on either side that falls off to the back and sides."""
    right = np.exp(-(((canvas.x - 64) / 78) ** 2) - ((canvas.y - 8) / 92) ** 2)
    left = np.exp(-(((canvas.x + 68) / 66) ** 2) - ((canvas.y - 8) / 88) ** 2)
    height: Floats = canvas.z - (frame.dome - 88) - 88 * right - 74 * left - 4 * canvas.noise()
    return height


def _liver(canvas: Canvas, tissues: Tissues, cavity: Floats, diaphragm: Floats) -> None:
    rng = canvas.rng
    size = rng.uniform(0.9, 1.08)
    lobes = (
        ((76.0, -6.0, rng.uniform(2, 16)), (76.0, 88.0, 88.0), rng.uniform(-12, 12), 0.0),
        ((rng.uniform(-8, 12), 44.0, 38.0), (74.0, 36.0, rng.uniform(34, 48)), 8.0, 14.0),
        ((98.0, 4.0, rng.uniform(-50, -20)), (34.0, 50.0, rng.uniform(45, 66)), 0.0, 0.0),
    )
    inside = np.full(canvas.volume.shape, -1e3, np.float32)
    for centre, radii, turn, tilt in lobes:
        box, depth = canvas.ellipsoid(centre, (radii[0] * size, radii[1] * size, radii[2] * size), turn, tilt)
        inside[box] = np.logaddexp(inside[box] / 6, depth / 6) * 6  # a smooth union
    underside = canvas.z + 10 + 0.6 * canvas.x + 0.28 * (canvas.y - 10)  # rises towards the left and the back
    inside = np.minimum(np.minimum(inside, underside) + 5 * canvas.noise(), np.minimum(cavity, -diaphragm) - 3)
    for centre, radii in (((58.0, -56.0, -56.0), (33.0, 31.0, 56.0)), ((-14.0, -38.0, 40.0), (34.0, 40.0, 150.0))):
        box, depth = canvas.ellipsoid(centre, radii)
        inside[box] = np.minimum(inside[box], -depth)
    canvas.paint(WHOLE, inside, tissues.liver + 2.5 * canvas.noise(), LIVER)
    _liver_vessels(canvas, tissues, inside)
    _lesions(canvas, tissues, inside)
    canvas.paint(*canvas.ellipsoid((52, 42, rng.uniform(-42, -30)), (15, 24, 19), turn=-20), rng.uniform(0, 18))


def _liver_vessels(canvas: Canvas, tissues: Tissues, inside: Floats) -> None:
    rng = canvas.rng
    hilum, confluence = (28.0, 6.0, 0.0), (24.0, -14.0, 66.0)
    for root, ends, radius in (
        (hilum, ((70, -8, 8), (112, -25, 25), (100, 30, -8)), 7.0),
        (hilum, ((58, 25, 15), (78, 52, 22), (20, 48, 34)), 5.5),
        (confluence, ((70, -2, 48), (112, 5, 30), (118, -20, 10)), 5.5),
        (confluence, ((52, 28, 46), (68, 56, 20), (5, 52, 40)), 5.0),
    ):
        points = [root, *((x + rng.normal(0, 6), y + rng.normal(0, 6), z + rng.normal(0, 6)) for x, y, z in ends)]
        for box, depth in canvas.tube(points, [radius, 0.75 * radius, 0.5 * radius, 0.4 * radius]):
            canvas.paint(box, np.minimum(depth, inside[box]), tissues.vein + 4, LIVER)


def _lesions(canvas: Canvas, tissues: Tissues, inside: Floats) -> None:
    rng = canvas.rng
    places = np.argwhere(inside > 8)
    for _ in range(int(rng.integers(0, 4))):
        if not len(places):
            return
        z, y, x = places[rng.integers(len(places))]
        radius = rng.uniform(7, 24)
        centre = (float(canvas.x[z, y, x]), float(canvas.y[z, y, x]), float(canvas.z[z, y, x]))
        box, depth = canvas.ellipsoid(centre, (radius, radius * rng.uniform(0.8, 1.2), radius), rng.uniform(0, 90))
        depth = np.minimum(depth + 0.12 * radius * canvas.noise()[box], inside[box] + 1)
        contrast = rng.uniform(28, 60)
        canvas.paint(box, depth, tissues.liver - contrast, TUMOUR)
        canvas.paint(box, depth - 0.5 * radius, tissues.liver - 1.35 * contrast, TUMOUR)


def _thorax(canvas: Canvas, frame: Frame, tissues: Tissues, cavity: Floats, diaphragm: Floats) -> None:
    """Lungs with their vessels, the heart, and ribs in the wall."""
    rng = canvas.rng
    beside = np.abs(canvas.x + 4) - 24 - 10 * (canvas.y < -10)
    lung = np.minimum(np.minimum(cavity + 4, diaphragm), beside)
    texture = np.maximum(canvas.rng.standard_normal(canvas.volume.shape, np.float32) - 1.6, 0)
    canvas.paint(WHOLE, lung, LUNG + 330 * texture)
    canvas.paint(
        *canvas.ellipsoid((-22, 30, frame.dome + 30), (54, 46, 50), turn=-30), (tissues.artery + tissues.vein) / 2
    )
    behind = np.clip((canvas.y + 60) / 150, 0, 1)  # 0 at the spine, 1 at the front: ribs slope down to the front
    phase = np.mod(canvas.z + 62 * behind + rng.uniform(0, 30), 30) - 15
    shell = 4 - np.abs(cavity + 0.45 * frame.wall)
    margin = canvas.z + 62 - 95 * behind - 0.35 * (60 - np.abs(canvas.x))
    reach = np.minimum(np.minimum(4.5 - np.abs(phase), shell), np.minimum(margin, np.abs(canvas.x) - 22))
    canvas.paint(WHOLE, reach, rng.uniform(260, 380))


def _scan(canvas: Canvas) -> Floats:
    """Blur, noise and the floor of air that scanners give."""
    rng = canvas.rng
    volume = gaussian_filter(canvas.volume, (0.35, 0.5, 0.5))
    noise = gaussian_filter(rng.standard_normal(volume.shape, np.float32), (0.2, 0.55, 0.55))
    volume += noise * (rng.uniform(8, 20) / noise.std())
    volume[volume < AIR + 60] = AIR
    return volume
