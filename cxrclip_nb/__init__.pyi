"""The public names, once: `lazy_loader` reads them, and so do type checkers."""

# models
from .model.clip import CXRCLIP as CXRCLIP
from .model.hub import CXRCLIPConfig as CXRCLIPConfig
from .model.released import load_released as load_released
from .model.chexficient import load_chexficient as load_chexficient
from .model.others import ImageTextModel as ImageTextModel
from .model.others import open_model as open_model
from .model.onnx import export_onnx as export_onnx

# runs
from .training.config import TrainConfig as TrainConfig
from .training.loop import train as train
from .training.report import evaluate as evaluate

# corpora and tables
from .data.corpora import read_chestxdet as read_chestxdet
from .data.corpora import read_chexpert as read_chexpert
from .data.corpora import read_chexpert_plus as read_chexpert_plus
from .data.corpora import read_mimic as read_mimic
from .data.corpora import read_ms_cxr as read_ms_cxr
from .data.corpora import read_nih14 as read_nih14
from .data.corpora import read_openi as read_openi
from .data.corpora import read_padchest as read_padchest
from .data.corpora import read_padchest_gr as read_padchest_gr
from .data.corpora import read_rexgradient as read_rexgradient
from .data.corpora import read_rsna as read_rsna
from .data.corpora import read_siim as read_siim
from .data.corpora import read_vindr as read_vindr
from .data.tables import read_csv as read_csv
from .data.studies import load_studies as load_studies
from .data.studies import save_studies as save_studies
from .data.studies import split_by_patient as split_by_patient
from .data.studies import validate_studies as validate_studies
from .data.leakage import leakage as leakage
from .data.leakage import split_from_lists as split_from_lists
from .data.regions import make_region as make_region
from .data.prepare import prepare as prepare
from .data.phantoms import make_phantoms as make_phantoms
from .data.films import read_film as read_film

# from a study to a batch
from .data.batches import StudyDataset as StudyDataset
from .data.batches import make_loader as make_loader
from .data.sampling import sample_texts as sample_texts
from .data.sampling import sample_views as sample_views
from .text.reports import shuffle_sentences as shuffle_sentences
from .text.reports import split_sections as split_sections
from .text.prompts import class_prompts as class_prompts
from .text.prompts import expand as expand

# losses
from .losses.contrastive import cxrclip_loss as cxrclip_loss
from .losses.contrastive import icl_loss as icl_loss
from .losses.contrastive import info_nce as info_nce
from .losses.contrastive import mvs_loss as mvs_loss
from .losses.contrastive import tcl_loss as tcl_loss
from .losses.others import label_bce as label_bce
from .losses.others import label_targets as label_targets
from .losses.others import sigmoid_loss as sigmoid_loss
from .losses.others import sigmoid_objective as sigmoid_objective

# evaluation
from .evaluation.probe import linear_probe as linear_probe
from .evaluation.retrieval import retrieval_metrics as retrieval_metrics
from .evaluation.zeroshot import zero_shot as zero_shot
from .evaluation.embed import read_embeddings as read_embeddings

# errors that are the user's; all are CXRError
from .core import CXRError as CXRError
from .data.films import FilmError as FilmError
from .data.studies import StudyError as StudyError
from .model.hub import CheckpointError as CheckpointError
from .text.labels import LabelError as LabelError
