"""Reference implementations, slow and literal, of what camlens computes fast: loops, and the papers' own names.

They use nothing of camlens itself.
"""

import copy
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

# --- class activation maps


def evidence(network, layer, image, c, b=None, see=lambda output: output[0]):
    """A and dy/dA, both (C, h, w), for one image (3, H, W): an ordinary forward and backward pass in float64.

    y is the logit of class c or, with b, the difference of the two classes' logits. see: from what the layer puts out
    to its feature map (C, h, w)
    """
    network = copy.deepcopy(network).double().eval().requires_grad_(True)
    outputs = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        outputs.append(output)

    network.get_submodule(layer).register_forward_hook(keep)
    with torch.enable_grad():
        y = network(image[None].double())[0]
        (y[c] if b is None else y[c] - y[b]).backward()
    return see(outputs[-1].detach()).numpy(), see(outputs[-1].grad).numpy()


def grad_cam(A, dy_dA):
    """Selvaraju et al. 2017, arXiv 1610.02391."""
    K, u, v = A.shape
    Z = u * v
    L = np.zeros((u, v))
    for k in range(K):
        alpha = 0.0
        for i in range(u):
            for j in range(v):
                alpha += dy_dA[k, i, j] / Z  # Eq. 1: global average pooling of the gradients
        L += alpha * A[k]
    return np.maximum(L, 0)  # Eq. 2


def hirescam(A, ds_dA):
    """Draelos and Carin 2020, arXiv 2011.08891: the gradients multiply their activations before the sum over f."""
    features, d1, d2 = A.shape
    attention = np.zeros((d1, d2))
    for f in range(features):
        for i in range(d1):
            for j in range(d2):
                attention[i, j] += ds_dA[f, i, j] * A[f, i, j]
    return attention


def layercam(A, g):
    """Jiang et al. 2021, IEEE TIP 30, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization"."""
    channels, height, width = A.shape
    M = np.zeros((height, width))
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                w = max(g[k, i, j], 0)  # a weight for each place, not for each channel
                M[i, j] += w * A[k, i, j]
    return np.maximum(M, 0)


def grad_cam_plus_plus(A, dS_dA):
    """Chattopadhay et al. 2018, arXiv 1710.11063, with Y = exp(S); the common factor exp(S) is set to 1."""
    K, h, w = A.shape
    L = np.zeros((h, w))
    for k in range(K):
        weight = 0.0
        for i in range(h):
            for j in range(w):
                first, second, third = dS_dA[k, i, j], dS_dA[k, i, j] ** 2, dS_dA[k, i, j] ** 3  # of exp(S)
                total = 0.0
                for a in range(h):
                    for b in range(w):
                        total += A[k, a, b] * third
                below = 2 * second + total
                alpha = second / below if below != 0 else 0.0  # Eq. 19
                weight += alpha * max(first, 0)  # Eq. 10
        L += weight * A[k]
    return np.maximum(L, 0)


def xgrad_cam(F, dS_dF):
    """Fu et al. 2020, arXiv 2008.02312."""
    K, h, w = F.shape
    M = np.zeros((h, w))
    for k in range(K):
        total = sum(F[k, m, n] for m in range(h) for n in range(w))
        weight = 0.0
        for i in range(h):
            for j in range(w):
                weight += (F[k, i, j] / total if total != 0 else 0.0) * dS_dF[k, i, j]
        M += weight * F[k]
    return np.maximum(M, 0)


def eigen_cam(A):
    """Muhammad and Yeasin 2020, arXiv 2008.00299: by eigenvectors of O^T O, not the singular ones of O."""
    h, w = A.shape[1:]
    places = np.array([A[:, i, j] for i in range(h) for j in range(w)])
    values, vectors = np.linalg.eigh(places.T @ places)
    L = places @ vectors[:, np.argmax(values)]
    mean = places.mean(axis=1)
    covariance = ((L - L.mean()) * (mean - mean.mean())).sum()
    return (L if covariance >= 0 else -L).reshape(h, w)


def score_cam(A, y_of_masked):
    """Wang et al. 2020, arXiv 1910.01279, Algorithm 1. `y_of_masked(H)`: y of the image times H, enlarged."""
    scores = {}
    for k in range(len(A)):
        if A[k].max() > A[k].min():
            scores[k] = y_of_masked(A[k]) - y_of_masked(None)  # the increase over an empty image
    L = np.zeros(A.shape[1:])
    for k, score in scores.items():
        L += math.exp(score) / sum(math.exp(other) for other in scores.values()) * A[k]
    return np.maximum(L, 0)


def ablation_cam(A, y_of_layer):
    """Desai and Ramaswamy 2020, WACV. `y_of_layer(A)`: y with the layer's output replaced."""
    y = y_of_layer(A)
    L = np.zeros(A.shape[1:])
    for k in range(len(A)):
        without = A.copy()
        without[k] = 0
        L += ((y - y_of_layer(without)) / y if y != 0 else 0.0) * A[k]
    return np.maximum(L, 0)


BY_GRADIENT = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgrad-cam": xgrad_cam,
}
METHODS = (*BY_GRADIENT, "eigen-cam", "score-cam", "ablation-cam", "finer-cam")


def most_like(logits, c, count=3):
    """The classes whose logits are nearest to that of class c."""
    others = sorted((abs(float(y - logits[c])), d) for d, y in enumerate(logits) if d != c)
    return [d for _, d in others[:count]]


def map_of(network, layer, image, method, c, b=None):
    """The map (h, w) of one method for one image (3, H, W), in float64."""
    network = copy.deepcopy(network).double().eval()
    image = image.double()

    def y(logits):
        return float(logits[c] if b is None else logits[c] - logits[b])

    def y_of_layer(A):
        hook = network.get_submodule(layer).register_forward_hook(lambda *_: torch.tensor(A)[None])
        try:
            with torch.no_grad():
                return y(network(image[None])[0])
        finally:
            hook.remove()

    def y_of_masked(H):
        mask = np.zeros(image.shape[1:])
        if H is not None:
            large = upsample(H, *image.shape[1:])
            mask = (large - large.min()) / (large.max() - large.min())
        with torch.no_grad():
            return y(network((image * torch.tensor(mask))[None])[0])

    if method == "finer-cam" and b is None:  # Zhang et al. 2025, arXiv 2501.11309, with gamma = 1
        with torch.no_grad():
            logits = network(image[None])[0]
        pairs = [evidence(network, layer, image, c, d) for d in most_like(logits, c)]
        if not pairs:
            pairs = [evidence(network, layer, image, c)]
        return grad_cam(pairs[0][0], sum(gradient for _, gradient in pairs) / len(pairs))
    A, gradient = evidence(network, layer, image, c, b)
    if method == "finer-cam":
        return grad_cam(A, gradient)
    if method == "eigen-cam":
        return eigen_cam(A)
    if method == "score-cam":
        return score_cam(A, y_of_masked)
    if method == "ablation-cam":
        return ablation_cam(A, y_of_layer)
    return BY_GRADIENT[method](A, gradient)


class GuidedReLU(torch.autograd.Function):
    """Springenberg et al. 2014, arXiv 1412.6806, Fig. 1: back goes what is positive, where the input was."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, R):
        (f,) = ctx.saved_tensors
        return R * (f > 0) * (R > 0)


def integrated_gradients(y, image, steps=2000):
    """Sundararajan et al. 2017, arXiv 1703.01365, Eq. 3, from zero; y: from an image (3, H, W) to a number."""
    total = torch.zeros_like(image)
    for k in range(steps):
        point = (image * (k + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(y(point), point)[0]
    return image * total / steps


def maps(network, layer, images, method, target, against=None):
    """(B, h, w): image by image, each for its own class in the list `target`."""
    against = against or [None] * len(images)
    found = [map_of(network, layer, x, method, c, b) for x, c, b in zip(images, target, against, strict=True)]
    return torch.tensor(np.stack(found))


def upsample(map, height, width):
    """Bilinear with half-pixel centres: the middle of a pixel is looked up among the middles of the cells."""
    h, w = map.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            y, x = y - top, x - left
            out[i, j] = (1 - y) * ((1 - x) * map[top, left] + x * map[top, right]) + y * (
                (1 - x) * map[bottom, left] + x * map[bottom, right]
            )
    return out


# --- networks


def resnet_logits(state, x, stem):
    """A ResNet in evaluation mode, told by nothing but torchvision's state dict. stem: "small" or "imagenet"."""

    def convolution(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, name):
        weight, bias, mean, variance = (
            state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return weight * (x - mean) / (variance + 1e-5).sqrt() + bias

    def block(x, name, stride):
        if f"{name}.conv3.weight" in state:  # Bottleneck, "v1.5": the stride is that of the 3x3 convolution
            out = F.relu(norm(convolution(x, f"{name}.conv1"), f"{name}.bn1"))
            out = F.relu(norm(convolution(out, f"{name}.conv2", stride), f"{name}.bn2"))
            out = norm(convolution(out, f"{name}.conv3"), f"{name}.bn3")
        else:
            out = F.relu(norm(convolution(x, f"{name}.conv1", stride), f"{name}.bn1"))
            out = norm(convolution(out, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            x = norm(convolution(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return F.relu(out + x)

    x = F.relu(norm(convolution(x, "conv1", stride=2 if stem == "imagenet" else 1), "bn1"))
    if stem == "imagenet":
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        number = 0
        while f"layer{stage}.{number}.conv1.weight" in state:
            x = block(x, f"layer{stage}.{number}", stride=2 if stage > 1 and number == 0 else 1)
            number += 1
    return x.flatten(2).mean(2) @ state["fc.weight"].T + state["fc.bias"]


def resnet_costs(depths, bottleneck, width, classes, stem, side):
    """Parameters, and multiply-adds of one image (3, side, side), counted along Table 1 of He et al. 2015."""
    parameters = multiply_adds = 0

    def convolution(kernel, inputs, outputs, side):
        nonlocal parameters, multiply_adds
        parameters += kernel * kernel * inputs * outputs + 2 * outputs  # and a BatchNorm's scale and shift
        multiply_adds += kernel * kernel * inputs * outputs * side * side

    if stem == "imagenet":
        side //= 2
        convolution(7, 3, width, side)
        side //= 2
    else:
        convolution(3, 3, width, side)
    inputs = width
    for stage, depth in enumerate(depths):
        planes = width * 2**stage
        outputs = 4 * planes if bottleneck else planes
        for number in range(depth):
            before = side
            if stage > 0 and number == 0:
                side //= 2
            if bottleneck:
                convolution(1, inputs, planes, before)
                convolution(3, planes, planes, side)
                convolution(1, planes, outputs, side)
            else:
                convolution(3, inputs, planes, side)
                convolution(3, planes, planes, side)
            if inputs != outputs or before != side:
                convolution(1, inputs, outputs, side)
            inputs = outputs
    return parameters + (inputs + 1) * classes, multiply_adds + inputs * classes


def receptive_field(network, layer, size):
    """Height and width of the box of input pixels that the middle cell of a layer's output depends on.

    Each pixel in turn is made NaN, which every operation hands on; float64 keeps clear of algorithms that smear it.
    """
    height, width = size
    network = copy.deepcopy(network).double().eval()
    outputs = []
    network.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    images = torch.ones(height * width, 3, height, width, dtype=torch.float64)
    for number in range(height * width):
        images[number, :, number // width, number % width] = torch.nan
    with torch.no_grad():
        network(images)
    middle = outputs[-1][:, :, outputs[-1].shape[2] // 2, outputs[-1].shape[3] // 2]
    rows, columns = middle.isnan().any(dim=1).view(height, width).nonzero(as_tuple=True)
    return int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)


# --- figures of merit


def wilson_interval(right, count, z=1.959964):
    """Wilson 1927: the shares p from which `right` of `count` lies z standard deviations away, found by bisection."""
    share = right / count

    def bisect(inside, outside):
        for _ in range(100):
            p = (inside + outside) / 2
            if (share - p) ** 2 <= z * z * p * (1 - p) / count:
                inside = p
            else:
                outside = p
        return inside

    return bisect(share, 0.0), bisect(share, 1.0)


def expected_calibration_error(probabilities, labels, M=15):
    """Guo et al. 2017, arXiv 1706.04599, Eq. 3, with B_m the images whose confidence lies in ((m - 1) / M, m / M]."""
    n = len(labels)
    error = 0.0
    for m in range(1, M + 1):
        confidences, right = [], []
        for probability, label in zip(probabilities, labels, strict=True):
            confidence = max(probability)
            if (m - 1) / M < confidence <= m / M:
                confidences.append(confidence)
                right.append(list(probability).index(confidence) == label)
        if confidences:
            accuracy, confidence = sum(right) / len(right), sum(confidences) / len(confidences)
            error += len(confidences) / n * abs(accuracy - confidence)
    return error


def gradient_cosines(network, images, labels, other_images, other_labels):
    """Cosines of the gradients of the cross-entropy by the last layer's weights and bias, image by image, (N, M)."""
    weights = list(network[-1].parameters())

    def gradient(image, label):
        loss = -torch.log_softmax(network(image[None]), dim=1)[0, label]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])

    of = [gradient(*pair) for pair in zip(images, labels, strict=True)]
    by = [gradient(*pair) for pair in zip(other_images, other_labels, strict=True)]
    return torch.tensor([[float(a @ b / (a.norm() * b.norm())) for b in by] for a in of])


def correlation_at_best_shift(picture, other, shift):
    """Pearson's correlation of a picture's inside with each part of another one of that size; the largest."""
    picture, other = np.asarray(picture, float), np.asarray(other, float)
    height, width = picture.shape[1:]
    inside = picture[:, shift : height - shift, shift : width - shift].ravel()
    found = []
    for down in range(2 * shift + 1):
        for right in range(2 * shift + 1):
            part = other[:, down : down + height - 2 * shift, right : right + width - 2 * shift].ravel()
            found.append(np.corrcoef(inside, part)[0, 1])
    return max(found)


def nearness(features, learned, count):
    """The mean of the `count` largest cosines of a feature vector with the learned ones, all less the mean of these."""
    centre = learned.mean(0)
    found = []
    for f in features:
        cosines = [float((f - centre) @ (g - centre) / ((f - centre).norm() * (g - centre).norm())) for g in learned]
        found.append(sum(sorted(cosines)[-count:]) / min(count, len(cosines)))
    return found


def best_temperature(logits, labels, low=1e-3, high=1e3):
    """Guo et al. 2017, Section 4.2: the T with the least mean negative log-likelihood, on ever finer grids."""

    def loss(T):
        total = 0.0
        for row, label in zip(logits, labels, strict=True):
            top = max(row)
            total += math.log(sum(math.exp((z - top) / T) for z in row)) - (row[label] - top) / T
        return total / len(labels)

    for _ in range(8):
        ratio = (high / low) ** (1 / 20)
        grid = [low * ratio**step for step in range(21)]
        best = min(grid, key=loss)
        low, high = best / ratio, best * ratio
    return best, loss(best)


def newton_schulz(matrix, iterations=5):
    """Jordan et al. 2024, Muon: X / |X|, then X <- a X + (b A + c A^2) X with A = X X^T, in double."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


# --- experiments on images


def holm_by_closed_testing(p_values):
    """Marcus, Peritz and Gabriel 1976: a test holds if every set of tests that it is in does, by Bonferroni."""
    numbers = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(numbers, size)]
    return [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if k in s) for k in numbers]


def smallest_sum_of_distances(values, candidates):
    """Of all ways to give each value a candidate of its own."""
    if len(values) > len(candidates):
        values, candidates = candidates, values
    return min(
        sum(abs(v - c) for v, c in zip(values, chosen, strict=True))
        for chosen in itertools.permutations(candidates, len(values))
    )


def agresti_min_interval(first, second, z=1.959964):
    """Agresti and Min 2005, section 3: add 1/2 to each cell of the table of pairs, then as Wald did."""
    n = {(a, b): 0.5 for a in (False, True) for b in (False, True)}
    for pair in zip(first, second, strict=True):
        n[pair] += 1
    total = sum(n.values())
    p12, p21 = n[True, False] / total, n[False, True] / total
    half = z * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / total)
    return max(-1, p12 - p21 - half), min(1, p12 - p21 + half)


def impute(picture, missing):
    """ROAD (arXiv 2202.00449, section 5): each missing pixel is the weighted mean of its neighbours, solved densely."""
    height, width = picture.shape
    places = [(y, x) for y in range(height) for x in range(width) if missing[y, x]]
    A, b = np.zeros((len(places), len(places))), np.zeros(len(places))
    for k, (y, x) in enumerate(places):
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            v, u = y + dy, x + dx
            if (dy, dx) == (0, 0) or not (0 <= v < height and 0 <= u < width):
                continue
            weight = 1 / 12 if dy and dx else 1 / 6
            A[k, k] += weight
            if missing[v, u]:
                A[k, places.index((v, u))] -= weight
            else:
                b[k] += weight * picture[v, u]
    filled = picture.astype(float).copy()
    for (y, x), value in zip(places, np.linalg.solve(A, b), strict=True):
        filled[y, x] = value
    return filled


def gaussian_blur(picture, sigma, reach):
    """Each pixel of (H, W): the mean of those around it, weighted by a Gaussian; edges are repeated."""
    height, width = picture.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = norm = 0.0
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    weight = math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
                    total += weight * picture[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                    norm += weight
            out[y, x] = total / norm
    return out


def enlarged_about_the_centre(picture, times):
    """(H, W) sampled bilinearly at c + (p - c) / times, with pixel centres at halves."""
    height, width = picture.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = (y + 0.5 - height / 2) / times + height / 2 - 0.5
            u = (x + 0.5 - width / 2) / times + width / 2 - 0.5
            top, left = math.floor(v), math.floor(u)
            p, q = v - top, u - left
            for dy, dx in itertools.product((0, 1), repeat=2):
                weight = (p if dy else 1 - p) * (q if dx else 1 - q)
                out[y, x] += weight * picture[min(max(top + dy, 0), height - 1), min(max(left + dx, 0), width - 1)]
    return out


# --- groups of errors


def signed_g(table):
    """G test of independence of a 2x2 table, its root with the sign of the first cell's excess (Woolf 1957)."""
    rows, columns, total = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)], 0.0
    for i in range(2):
        for j in range(2):
            if table[i][j]:
                total += 2 * table[i][j] * math.log(table[i][j] * sum(rows) / (rows[i] * columns[j]))
    return math.copysign(math.sqrt(max(0.0, total)), table[0][0] * sum(rows) - rows[0] * columns[0])


def picture_properties(image):
    """Brightness, contrast, colourfulness and sharpness of one picture (3, H, W), 0 to 1, pixel by pixel."""
    _, height, width = image.shape
    grey = [[0.299 * image[0, y, x] + 0.587 * image[1, y, x] + 0.114 * image[2, y, x] for x in range(width)]
            for y in range(height)]  # fmt: skip
    flat = [value for row in grey for value in row]
    rg = [image[0, y, x] - image[1, y, x] for y in range(height) for x in range(width)]
    yb = [(image[0, y, x] + image[1, y, x]) / 2 - image[2, y, x] for y in range(height) for x in range(width)]
    colourfulness = math.hypot(np.std(rg), np.std(yb)) + 0.3 * math.hypot(np.mean(rg), np.mean(yb))  # Eq. in section 6
    laplacian = []
    for y in range(height):
        for x in range(width):
            near = (max(y - 1, 0), x), (min(y + 1, height - 1), x), (y, max(x - 1, 0)), (y, min(x + 1, width - 1))
            laplacian.append(sum(grey[v][u] for v, u in near) - 4 * grey[y][x])
    return np.mean(flat), np.std(flat), colourfulness, np.var(laplacian)


def label_doubt(first, second, labels):
    """The mean over two opinions of the largest probability of another class less that of the label, image by image."""
    doubts = []
    for one, other, label in zip(first, second, labels, strict=True):
        lacks = [max(p for k, p in enumerate(row) if k != label) - row[label] for row in (one, other)]
        doubts.append(sum(lacks) / 2)
    return doubts
