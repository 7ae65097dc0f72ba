"""Makes DICOM series, a file a slice."""

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

DIRECTIONS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_series(
    folder, array, *, spacing=(3.0, 0.5, 0.75), directions=DIRECTIONS, name="a", positions=None
):
    """Write (Z, Y, X) as CT slices in a shuffled order; intensities are value - 1024."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = (generate_uid(entropy_srcs=[name, kind]) for kind in "abc")
    normal = np.cross(directions[:3], directions[3:])
    places = spacing[0] * np.arange(len(array)) if positions is None else positions
    for number in np.random.default_rng(0).permutation(len(array)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=[name, str(number)])
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.Modality = frame, "CT"
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = (
            "1",
            "A^B",
            "",
            "",
        )
        data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
        data.StudyDate, data.StudyTime = "20200101", "000000"
        data.PositionReferenceIndicator, data.SeriesNumber = "", 1
        data.InstanceNumber = int(number) + 1
        data.ImageOrientationPatient = list(directions)
        data.ImagePositionPatient = (10.0 + normal * places[number]).tolist()
        data.PixelSpacing, data.SliceThickness = list(spacing[1:]), spacing[0]
        data.Rows, data.Columns = array.shape[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = array[number].astype(np.uint16).tobytes()
        data.save_as(folder / f"{number * 7 % 100:03d}.dcm", enforce_file_format=True)
    return folder
