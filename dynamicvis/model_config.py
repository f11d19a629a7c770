"""What the architecture in a model file may say: an allow-list, decided before anything is imported or built.

OpenMMLab builds a model from nested dictionaries, and a ``type`` in one of them may be any name that Python can import:
``os.system`` too. Some of its classes read files or fetch from addresses that a setting names, and some settings are
evaluated as code. A model file comes from anywhere, so of all this it may use:

- as ``type``, the names in `TYPES`, bare or after the name of their package (``mmdet.FCOSHead``): detectors,
  segmentors, classifiers and their backbones, necks, heads, losses, assigners, samplers, coders and layers of mmdet,
  mmseg, mmpretrain and mmcv, and the parts of this package. They are what these packages register for inference in the
  tasks of a card, less what opens files or addresses, evaluates text, or belongs to tracking, language or pretraining;
- as ``_scope_``, the names of these packages, and no other key that begins with an underscore;
- as ``init_cfg``, the initialisations that draw numbers, never ``Pretrained``;
- as text, short words without path or address, and none at all for settings that name files, checkpoints,
  tokenizers or classes' weights;
- numbers that are finite, and integers that a model can need.

Whoever builds such a config makes sure besides that each name is registered by its package, as
`dynamicvis.mm.inference.building` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from dynamicvis.text import printable

_NAMES = {
    "dynamicvis": """
        ConcatFusion DynamicVis MLPSegHead MeanPoolNorm RegionRoIExtractor SiameseSegmentor SoftDiceLoss UNetDecoder
        WeightedCrossEntropyLoss
    """,
    "mmengine": """
        BN BN1d BN2d BN3d BaseTransformerLayer Clamp Clip ContextBlock Conv Conv1d Conv2d Conv2dAdaptivePadding
        Conv3d ConvAWS ConvModule ConvTranspose2d ConvTranspose3d ConvWS CrissCrossAttention DCN DCNv2 DropPath
        Dropout ELU FFN GELU GN GeneralizedAttention HSigmoid HSwish Hardsigmoid IN IN1d IN2d IN3d LN LeakyReLU
        MMSyncBN MultiScaleDeformableAttention MultiheadAttention NonLocal2d PReLU RReLU ReLU ReLU6 SAC SiLU
        Sigmoid Swish SyncBN Tanh TransformerLayerSequence bilinear carafe deconv deconv3d nearest pixel_shuffle
        reflect replicate zero
    """,
    "mmdet": """
        ATSS ATSSAssigner ATSSHead AnchorFreeHead AnchorGenerator AnchorHead ApproxMaxIoUAssigner
        AssociativeEmbeddingLoss AutoAssign AutoAssignHead BBoxHead BBoxL1Cost BFP BalancedL1Loss
        BasePanopticFusionHead BaseSemanticHead BboxOverlaps2D BinaryFocalLossCost BoundedIoULoss BoxInst
        BoxInstBboxHead BoxInstMaskHead BucketingBBoxCoder CIoULoss CLRFPN CLRHead CSPDarknet CSPNeXt
        CSPNeXtPAFPN CTResNetNeck CascadeRCNN CascadeRPNHead CascadeRoIHead CenterNet CenterNetHead
        CenterNetUpdateHead CenterRegionAssigner CentripetalHead ChannelMapper ClassificationCost CoarseMaskHead
        CombinedSampler CondInst CondInstBboxHead CondInstMaskHead ConditionalDETR ConditionalDETRHead
        ConvFCBBoxHead CornerHead CornerNet CrossEntropyCustomLoss CrossEntropyLoss CrossEntropyLossCost
        CrowdDet DABDETR DABDETRHead DDOD DDODHead DDQDETR DDQDETRHead DETR DETRHead DIIHead DINO DINOHead
        DIoULoss Darknet DecoupledSOLOHead DecoupledSOLOLightHead DeformableDETR DeformableDETRHead
        DeltaXYWHBBoxCoder DetectionTransformer DetectoRS_ResNeXt DetectoRS_ResNet DiceCost DiceLoss
        DilatedEncoder DistancePointBBoxCoder DistributionFocalLoss DoubleConvFCBBoxHead DoubleHeadRoIHead
        DropBlock DyHead DynamicConv DynamicMaskHead DynamicRoIHead DynamicSoftLabelAssigner EIoULoss EQLV2Loss
        EfficientNet EmbeddingRPNHead FCNMaskHead FCOS FCOSHead FOVEA FPG FPN FPN_CARAFE FPN_DropBlock FSAF
        FSAFHead FastRCNN FasterRCNN FeatureRelayHead FocalCustomLoss FocalLoss FocalLossCost FoveaHead
        FreeAnchorRetinaHead FrozenBN FusedSemanticHead GARPNHead GARetinaHead GFL GFLHead GHMC GHMR GIoULoss
        GaussianFocalLoss GenericRoIExtractor GlobalContextHead GridAssigner GridHead GridRCNN GridRoIHead
        GuidedAnchorHead HRFPN HRNet HTCMaskHead HeuristicFusionHead HourglassNet HungarianAssigner
        HybridTaskCascade HybridTaskCascadeRoIHead InstanceBalancedPosSampler IoUBalancedNegSampler IoUCost
        IoULoss L1Loss L2Loss LearnedPositionalEncoding LegacyAnchorGenerator LegacyDeltaXYWHBBoxCoder
        LegacySSDAnchorGenerator Linear MSDeformAttnPixelDecoder MSELoss Mask2Former Mask2FormerHead MaskFormer
        MaskFormerFusionHead MaskFormerHead MaskIoUHead MaskPointHead MaskPseudoSampler MaskRCNN MaskScoringRCNN
        MaskScoringRoIHead MaxIoUAssigner MlvlPointGenerator MobileNetV2 MultiInsRandomSampler
        MultiInstanceAssigner MultiInstanceBBoxHead MultiInstanceRoIHead NASFCOS NASFCOSHead NASFCOS_FPN NASFPN
        NormedConv2d NormedLinear OHEMSampler PAA PAAHead PAFPN PISARetinaHead PISARoIHead PISASSDHead
        PanopticFPN PanopticFPNHead PixelDecoder PointAssigner PointGenerator PointRend PointRendRoIHead
        PseudoBBoxCoder PseudoSampler PyramidVisionTransformer PyramidVisionTransformerV2 QualityFocalLoss
        QueryInst RFP RPN RPNHead RTMDet RTMDetHead RTMDetInsHead RTMDetInsSepBNHead RTMDetSepBNHead
        RandomSampler RegNet RegionAssigner RepPointsDetector RepPointsHead Res2Net ResLayer ResNeSt ResNeXt
        ResNet ResNetV1d RetinaHead RetinaNet RetinaSepBNHead SABLHead SABLRetinaHead SCNet SCNetBBoxHead
        SCNetMaskHead SCNetRoIHead SCNetSemanticHead SIoULoss SOLO SOLOHead SOLOV2Head SOLOv2 SSDAnchorGenerator
        SSDHead SSDNeck SSDVGG SSH ScoreHLRSampler SeesawLoss Shared2FCBBoxHead Shared4Conv1FCBBoxHead SiLU
        SimOTAAssigner SinePositionalEncoding SinePositionalEncoding3D SingleRoIExtractor SingleStageDetector
        SingleStageInstanceSegmentor SmoothL1Loss SparseRCNN SparseRoIHead StageCascadeRPNHead StandardRoIHead
        SwinTransformer TBLRBBoxCoder TOOD TOODHead TaskAlignedAssigner TopkHungarianAssigner
        TransformerEncoderPixelDecoder TridentFasterRCNN TridentResNet TridentRoIHead TwoStageDetector
        TwoStagePanopticSegmentor UniformAssigner VFNet VFNetHead VarifocalLoss YOLACT YOLACTHead YOLACTProtonet
        YOLOAnchorGenerator YOLOBBoxCoder YOLOF YOLOFHead YOLOV3 YOLOV3Head YOLOV3Neck YOLOX YOLOXHead
        YOLOXPAFPN
    """,
    "mmseg": """
        ANNHead APCHead ASPPHead BEiT BiSeNetV1 BiSeNetV2 BoundaryLoss CCHead CGNet CascadeEncoderDecoder
        ClassificationCost CrossEntropyLoss CrossEntropyLossCost DAHead DDRHead DDRNet DMHead DNLHead DPTHead
        DeconvModule DepthwiseSeparableASPPHead DepthwiseSeparableFCNHead DiceCost DiceLoss EMAHead ERFNet
        EncHead EncoderDecoder FCNHead FPN FPNHead FastSCNN Feature2Pyramid FocalLoss GCHead HRNet
        HuasdorffDisstanceLoss HungarianAssigner ICNeck ICNet ISAHead InterpConv IterativeDecodeHead JPU
        KernelUpdateHead KernelUpdator LRASPPHead LightHamHead LovaszLoss MAE MLANeck MSCAN Mask2FormerHead
        MaskFormerHead MixVisionTransformer MobileNetV2 MobileNetV3 MultiLevelNeck NLHead OCRHead
        OHEMPixelSampler OhemCrossEntropy PCPVT PIDHead PIDNet PSAHead PSPHead PointHead ResNeSt ResNeXt ResNet
        ResNetV1c ResNetV1d SETRMLAHead SETRUPHead STDCContextPathNet STDCHead STDCNet SVT SegformerHead
        SegmenterMaskTransformerHead SwinTransformer TverskyLoss UNet UPerHead VisionTransformer
    """,
    "mmpretrain": """
        AlexNet AsymmetricLoss CSPDarkNet CSPResNeXt CSPResNet CSRAClsHead ClsBatchNormNeck ClsHead Conformer
        ConformerHead ConvMixer ConvNeXt CosineSimilarityLoss CrossEntropyLoss CutMix DaViT DeiT3 DeiTClsHead
        DenseNet DistilledVisionTransformer EdgeNeXt EfficientFormer EfficientFormerClsHead EfficientNet
        EfficientNetV2 FocalLoss GRN GeneralizedMeanPooling GlobalAveragePooling HRFuseScales HRNet HiViT HorNet
        ImageClassifier InceptionV3 LN2d LabelSmoothLoss LeNet5 LeViT LeViTClsHead LinearClsHead LinearNeck
        LinearRegressionHead MViT MixMIMTransformer Mixup MlpMixer MobileNetV2 MobileNetV3 MobileOne MobileViT
        MultiLabelClsHead MultiLabelLinearClsHead MultiTaskHead NonLinearNeck PCPVT PoolFormer PyramidVig
        QuickGELU RIFormer RegNet RegressionHead RegressionLoss RepLKNet RepMLPNet RepVGG Res2Net ResNeSt
        ResNeXt ResNet ResNetV1c ResNetV1d ResNet_CIFAR ResizeMix RevVisionTransformer SEResNeXt SEResNet SVT
        SeesawLoss ShiftWindowMSA ShuffleNetV1 ShuffleNetV2 StackedLinearClsHead SwinTransformer
        SwinTransformerV2 T2T_ViT TNT TinyViT VAN VGG ViTEVA02 ViTSAM Vig VigClsHead VisionTransformer
        VisionTransformerClsHead XCiT
    """,
}
TYPES = {scope: frozenset(names.split()) for scope, names in _NAMES.items()}
"""Names that a config may build, by package; those under ``mmengine`` are torch's and mmcv's layers."""

# Not registered: what mmdet looks up among mmcv's operators by name.
OPERATORS = frozenset(("RoIAlign", "RoIPool", "SimpleRoIAlign", "nms", "soft_nms"))
_ANYWHERE = frozenset().union(OPERATORS, *TYPES.values())
_TRANSITIONS = ("same_up", "same_down", "across_lateral", "across_down", "across_up", "across_skip", "output")
# Settings whose ``type`` chooses between ways of one class, FPG or StageCascadeRPNHead, and builds nothing by its name.
_CHOICES = {"adapt_cfg": frozenset(("dilation", "offset"))} | dict.fromkeys(
    (f"{name}_trans" for name in _TRANSITIONS), frozenset(("conv", "identity", "interpolation_conv", "last_conv"))
)
_INITIALISATIONS = frozenset(("Caffe2Xavier", "Constant", "Kaiming", "Normal", "TruncNormal", "Uniform", "Xavier"))

_DEEPEST = 40
_MOST = 20_000  # dictionaries, lists and values in all
_LARGEST = 65536
# Settings that hold numbers to compare with, and are no sizes of anything: ranges that heads of FCOS regress, and the
# fewest pixels that count in a loss on hard examples.
_UNBOUNDED = ("regress_ranges", "min_kept")
_INFINITE = 10**9
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
# Words, with a dot or a slash between digits only, as in the names of RegNets and ConvMixers.
_WORD = re.compile(r"(?:[A-Za-z0-9_+\- ]|(?<=[0-9])[./](?=[0-9])){0,100}")
_OPENING = re.compile(
    r"(?:^|_)(?:checkpoints?|ckpt|files?|paths?|dirs?|folders?|roots?|urls?|pretrained|prefix|teacher|tokenizer|vocab|"
    r"imports?|class_weight|code_weights?)(?:_|$)"
)


def config_problem(config: Any) -> str | None:
    """What a model file's config has that it may not have, in a few words, or None.

    Args:
        config: what JSON gives, or dictionaries, lists, tuples, text, numbers and None.
    """
    if not isinstance(config, dict):
        return "config must be a dictionary"
    return next(_problems(config, "config", 0, [_MOST]), None)


def scopes_of(config: Any) -> set[str]:
    """Names of the packages that the types of a checked config name."""
    found: set[str] = set()
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "_scope_":
                found.add(value)
            elif key == "type" and isinstance(value, str) and "." in value:
                found.add(value.partition(".")[0])
            else:
                found |= scopes_of(value)
    elif isinstance(config, list | tuple):
        for value in config:
            found |= scopes_of(value)
    return found


def types_of(config: Any) -> set[str]:
    """All types of a checked config that a registry resolves: without initialisations and operators."""
    found: set[str] = set()
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "type" and isinstance(value, str) and value not in OPERATORS:
                found.add(value)
            elif key != "init_cfg":
                found |= types_of(value)
    elif isinstance(config, list | tuple):
        for value in config:
            found |= types_of(value)
    return found


def _problems(value: Any, place: str, depth: int, left: list[int], inside: str = "") -> Iterator[str]:
    """What is wrong at ``place`` and below.

    ``left`` counts down the values that there may still be; ``inside`` is the setting around it that has its own rule.
    """
    left[0] -= 1
    if left[0] < 0:
        yield f"config has more than {_MOST} values"
    elif depth > _DEEPEST:
        yield f"config is nested deeper than {_DEEPEST}"
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _entry_problems(key, entry, place, depth, left, inside)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _problems(entry, f"{place}[{index}]", depth + 1, left, inside)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value):
            yield f"{place} is the text '{printable(value, 60)}', where a config has plain words"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{place} is not a finite number"
    elif isinstance(value, int):  # and booleans
        largest = _INFINITE if inside in _UNBOUNDED else _LARGEST
        if abs(value) > largest:
            yield f"{place} is an integer beyond {largest}"
    elif value is not None:
        yield f"{place} is of a kind that JSON does not have"


def _entry_problems(key: Any, value: Any, place: str, depth: int, left: list[int], inside: str) -> Iterator[str]:
    if key == "_scope_":
        if not (isinstance(value, str) and value in TYPES):
            yield f"{place}._scope_ must be one of {', '.join(sorted(TYPES))}"
    elif not (isinstance(key, str) and _KEY.fullmatch(key)):
        yield f"{place} has the key '{printable(str(key), 60)}', which is no name of a setting"
    elif key == "type":
        if not _known(value, inside):
            shown = f"'{printable(value, 60)}'" if isinstance(value, str) else "no text"
            yield (
                f"{place}.type is {shown}, which a model file may not build: it must be one of the known parts of "
                f"{', '.join(sorted(TYPES))}"
            )
    elif _OPENING.search(key) and _has_text(value) and not (key == "paths" and _has_directions(value)):
        yield f"{place}.{key} names a file, address or text, which a model file may not"
    else:
        inside = key if key in ("init_cfg", *_UNBOUNDED, *_CHOICES) and not inside else inside
        yield from _problems(value, f"{place}.{key}", depth + 1, left, inside)


def _known(kind: Any, inside: str) -> bool:
    if kind is None:
        return True
    if not isinstance(kind, str):
        return False
    if inside == "init_cfg":
        return kind in _INITIALISATIONS
    scope, dot, name = kind.rpartition(".")
    if kind in _CHOICES.get(inside, ()):
        return True
    return name in TYPES.get(scope, ()) if dot else name in _ANYWHERE


def _has_text(value: Any) -> bool:
    """Whether a value is more than a number, or a list of numbers."""
    if isinstance(value, list | tuple):
        return any(not isinstance(entry, int | float) for entry in value)
    return value is not None and value != {} and not isinstance(value, int | float)


def _has_directions(value: Any) -> bool:
    """Whether the ``paths`` of a config are those of FPG: bottom up and top down."""
    return isinstance(value, list | tuple) and all(entry in ("bu", "td") for entry in value)
