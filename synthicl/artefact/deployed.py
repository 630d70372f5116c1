"""The deployed classifier: square images in, probabilities out, one PyTorch module with its context inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from synthicl.artefact.classifier import InContextClassifier
from synthicl.tabicl.cached import CachedTabICL


class DeployedClassifier(nn.Module):
    """What `InContextClassifier.predict_proba_images` computes after images were read, resized and cropped.

    Args:
        classifier: fitted on the CPU, from a context set that names its backbone.

    Attributes:
        crop_size: side s in pixels of the squares.
        class_names: of the columns.
        temperature: of the probabilities, the classifier's own.

    Raises:
        UserError: no backbone, other weights than the context set's, or a context that cannot be kept, see
            `synthicl.tabicl.cached.why_not_kept`.
    """

    order: Tensor

    def __init__(self, classifier: InContextClassifier) -> None:
        super().__init__()
        embedder = classifier.image_embedder()
        self.crop_size = embedder.crop_size
        self.class_names = [str(name) for name in classifier.classes_]
        self.temperature = classifier.temperature_
        self.backbone = embedder.backbone
        self.preprocessing = classifier.context_.preprocessing
        self.tabicl = CachedTabICL(classifier.probe_.fitted, self.temperature)
        self.register_buffer("order", torch.from_numpy(classifier.column_order_))

    def forward(self, images: Tensor) -> Tensor:
        """Classify squares.

        Args:
            images: (B, 3, s, s), RGB: uint8, or floating point in [0, 1].

        Returns:
            (B, C), float32.
        """
        z = self.backbone(images if images.is_floating_point() else images / 255)
        probabilities: Tensor = self.tabicl(self.preprocessing(z))
        return probabilities[:, self.order]
