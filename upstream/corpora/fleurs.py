"""FLEURS: the sentences of FLoRes read aloud in 102 languages, for LID, ASR and ST."""

from collections.abc import Iterator
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, read_lines, refuse_empty, refuse_row
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="FLEURS",
    folder="fleurs",
    tasks=("lid", "asr", "st"),
    licence="CC BY 4.0",
    source="https://arxiv.org/abs/2205.12446",
    citation="Conneau et al. 2022, FLEURS: Few-shot Learning Evaluation of Universal Representations of Speech",
    size="2 to 3 GB per language",
    text="words",
)

_LANGUAGES = """af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn cs_cz cy_gb
    da_dk de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in hr_hr
    hu_hu hy_am id_id ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug
    ln_cd lo_la lt_lt luo_ke lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl nso_za ny_mw
    oc_fr om_et or_in pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in
    te_in tg_tj th_th tr_tr uk_ua umb_ao ur_pk uz_uz vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za"""
LANGUAGES = tuple(_LANGUAGES.split())
SPLITS = ("train", "dev", "test")
RATE = 16_000
FIELDS = 7  # sentence, file, transcript, the same normalised, its characters, samples, gender
_KNOWN = {  # bytes and sums that somebody noted; the others are remembered at the first download
    "cmn_hans_cn": (
        2_522_990_658,
        "cd39a9c9ac596fb561ad90353660889e",
        "0b412f291a8790db9226a1d4b69f811d5ace99cffae2a3df994a15af335190f3",
    )
}


def _archive(code: str) -> Archive:
    size, md5, sha256 = _KNOWN.get(code, (0, "", ""))
    url = f"https://storage.googleapis.com/xtreme_translations/FLEURS102/{code}.tar.gz"
    return Archive(part=code, url=url, bytes=size, md5=md5, sha256=sha256)


archives = tuple(_archive(code) for code in LANGUAGES)


def read(root: Path, *, languages: str = "", translate_to: str = "") -> Reading:
    """Utterances of some languages; sentences, of which each is read by up to three people, never cross splits.

    Who reads is not told. A translation is the transcript of the same sentence in another language.

    Args:
        root: holds a folder per language, each with `train.tsv`, `dev.tsv`, `test.tsv` and `audio/`.
        languages: codes of FLEURS with commas between, such as `de_de,en_us`; all that are there where empty.
        translate_to: code of the language of the column `translation`; sentences that it lacks are left out.
    """
    root = find_root(root, corpus, *(f"{code}/{split}.tsv" for code in LANGUAGES for split in SPLITS))
    there = [code for code in LANGUAGES if (root / code).is_dir()]
    wanted = [code.strip() for code in languages.split(",")] if languages else there
    for code in [*wanted, *filter(None, [translate_to])]:
        if code not in there:
            what = "is not here" if code in LANGUAGES else "is no language of FLEURS"
            raise UserError(f"{code!r} {what}", where=root, remedy=closest(code, there))
    if not languages and translate_to:
        wanted = [code for code in wanted if code != translate_to]
    translations = _sentences(root, translate_to) if translate_to else {}
    rows, twice, alone = [], 0, 0
    for code in dict.fromkeys(wanted):
        for split in SPLITS:
            seen = set()
            for sentence, file, text, samples, gender in _lines(root / code / f"{split}.tsv"):
                if file in seen:
                    twice += 1
                    continue
                seen.add(file)
                if translate_to and sentence not in translations:
                    alone += 1
                    continue
                row = {
                    "id": f"{code}_{file.removesuffix('.wav')}",
                    "audio": f"{code}/audio/{split}/{file}",
                    "split": split,
                    "duration": int(samples) / RATE if samples.isdecimal() else "",
                    "language": tag(code),
                    "text": text,
                    "gender": gender.lower(),
                    "sentence": sentence,
                }
                if translate_to:
                    row |= {"translation": translations[sentence], "translation_language": tag(translate_to)}
                rows.append(row)
    notes = [f"{twice:,} lines that list a file again are left out"] if twice else []
    notes += [f"{alone:,} utterances of sentences without {translate_to} are left out"] if alone else []
    return Reading(root=root, rows=rows, notes=tuple(notes))


def tag(code: str) -> str:
    """The BCP 47 tag of a code, such as cmn-Hans-CN of cmn_hans_cn."""
    language, *rest = code.split("_")
    return "-".join([language, *(part.title() if len(part) == 4 else part.upper() for part in rest)])


def _sentences(root: Path, code: str) -> dict[str, str]:
    """The transcript of each sentence in one language: the first one, they differ in rare cases only."""
    sentences: dict[str, str] = {}
    for split in SPLITS:
        for sentence, _, text, *_ in _lines(root / code / f"{split}.tsv"):
            sentences.setdefault(sentence, text)
    return sentences


def _lines(path: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Sentence, file, transcript, samples and gender of every line of a list, which has no header and no quoting."""
    number, what = 0, f"the {path.stem} list of {path.parent.name} of FLEURS"
    for number, line in read_lines(path, what):
        fields = line.split("\t")
        if len(fields) != FIELDS:
            refuse_row(path, number, f"{len(fields)} fields, not {FIELDS}")
        sentence, file, text, _, _, samples, gender = fields
        yield sentence, file, text, samples, gender
    if not number:
        refuse_empty(path, what)
