//! Converts PyTorch files to safetensors. A pickle is a program that builds objects; candle's reader knows the few
//! instructions that weights need, and runs nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::panic::catch_unwind;
use std::path::Path;

use candle_core::DType;
use candle_core::pickle::{TensorInfo, read_pth_tensor_info};
use serde_json::{Map, json};

use super::names::{self, Part};
use super::recipe::{self, Recipe};
use crate::error::plain;
use crate::{Error, Result};

/// The names of the converted tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// The names in the PyTorch file.
    #[default]
    InFile,
    /// The names of diffusers and transformers.
    Diffusers,
    /// The names of Wan's own files.
    Original,
}

/// What [`convert`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conversion {
    /// Number of tensors.
    pub tensors: usize,
    /// The key of the object that contained them; `None` for the whole file.
    pub key: Option<String>,
}

/// Averaged weights of a training (EMA), and the weights themselves. Which are better depends on the model.
const EMA: &str = "generator_ema";
const GENERATOR: &str = "generator";

/// Keys of the weights in training checkpoints. The first that exists is used, except that [`EMA`] and [`GENERATOR`] together
/// need a choice.
const KEYS: [&str; 6] = [EMA, GENERATOR, "generator_lora", "state_dict", "model", "module"];

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// Writes the tensors of `from`, a `.pt` or `.pth` file, to the safetensors file `to`. `key` is the object with the
/// tensors in it; by default the usual keys are tried. A file with both `generator` and `generator_ema` needs a `key`, or the
/// `recipe` of the model: a known name, or the path of a `soragen.json` with a `checkpoint_key`. No tensor is held in memory.
///
/// # Errors
/// [`Error::Invalid`] for another kind of file, incomplete tensors, or a missing choice; [`Error::NotFound`] for an unknown
/// recipe; [`Error::Io`]. After an error `to` is unchanged.
pub fn convert(
    from: &Path,
    to: &Path,
    key: Option<&str>,
    recipe: Option<&str>,
    names: Names,
) -> Result<Conversion> {
    let invalid = |reason: String| Error::Invalid { path: from.into(), reason };
    let mut archive =
        File::open(from).map_err(|source| Error::Io { path: from.into(), source }).and_then(|file| {
            zip::ZipArchive::new(BufReader::new(file))
                .map_err(|e| invalid(format!("not a PyTorch file: {e}")))
        })?;
    let (key, infos) = tensors(from, key, recipe)?;
    if infos.is_empty() {
        let hint = "the file has no tensors; set --key to the object that contains them";
        return Err(invalid(hint.into()));
    }
    let named = renamed(&infos, names).map_err(invalid)?;

    // The header: type, shape and byte range of every tensor.
    let (mut header, mut offset) = (Map::new(), 0_u64);
    for (name, info) in &named {
        let shape = info.layout.shape();
        let dtype = dtype_name(info.dtype)
            .ok_or_else(|| invalid(format!("{name} has the unsupported data type {:?}", info.dtype)))?;
        if !info.layout.is_contiguous() {
            return Err(invalid(format!(
                "{name} is a view of another tensor; save it with torch.save(tensor.contiguous())"
            )));
        }
        let bytes = shape
            .dims()
            .iter()
            .try_fold(info.dtype.size_in_bytes() as u64, |n, &dim| n.checked_mul(dim as u64));
        let end = bytes
            .and_then(|bytes| offset.checked_add(bytes))
            .ok_or_else(|| invalid(format!("{name} is too large")))?;
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape.dims(), "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut header = serde_json::Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    let io = |source| Error::Io { path: to.into(), source };
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // The usual permissions of a new file: another user may run the model.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut partial = builder.tempfile_in(folder).map_err(io)?;
    let mut out = BufWriter::new(partial.as_file_mut());
    out.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| out.write_all(header.as_bytes()))
        .map_err(io)?;
    for (name, info) in &named {
        let width = info.dtype.size_in_bytes() as u64;
        let bytes = info.layout.shape().elem_count() as u64 * width;
        let mut stored = archive.by_name(&info.path).map_err(|e| invalid(format!("{name}: {e}")))?;
        // candle's offset is in bytes.
        let skipped = copy(&mut stored, &mut std::io::sink(), info.layout.start_offset() as u64);
        let copied = skipped.and_then(|()| copy(&mut stored, &mut out, bytes));
        copied.map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => invalid(format!("{name} is truncated")),
            _ => io(e),
        })?;
    }
    out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
    partial.persist(to).map_err(|e| io(e.error))?;
    Ok(Conversion { tensors: named.len(), key })
}

/// The tensors of the object `key`, or of the usual one, with its key; no key for tensors that are in no object.
fn tensors(
    from: &Path,
    key: Option<&str>,
    recipe: Option<&str>,
) -> Result<(Option<String>, Vec<TensorInfo>)> {
    let read = |key: Option<&str>| {
        // candle's reader panics if an instruction has no operands.
        let read = catch_unwind(|| read_pth_tensor_info(from, false, key));
        read.map_err(|_| "the file is damaged".to_string()).and_then(|read| read.map_err(|e| plain(&e)))
    };
    let invalid = |reason| Error::Invalid { path: from.into(), reason };
    let preferred = recipe.map(|name| Recipe::named(name)?.checkpoint_key()).transpose()?.flatten();
    if let Some(key) = key {
        return Ok((Some(key.into()), read(Some(key)).map_err(invalid)?));
    }
    let top_level = read(None).map_err(invalid)?;
    if !top_level.is_empty() {
        return Ok((None, top_level));
    }
    let mut found: Vec<_> = KEYS
        .iter()
        .filter_map(|&key| Some((key, read(Some(key)).ok()?)))
        .filter(|(_, tensors)| !tensors.is_empty())
        .collect();
    let has = |key: &str| found.iter().position(|(found, _)| *found == key);
    let chosen = match (has(EMA), has(GENERATOR), preferred) {
        (Some(_), Some(_), Some(key)) => has(&key).ok_or_else(|| {
            invalid(format!("the recipe needs `{key}`, which the file does not have; set --key"))
        })?,
        (Some(_), Some(_), None) => return Err(invalid(choice(recipe))),
        _ => 0,
    };
    if found.is_empty() {
        return Ok((None, Vec::new()));
    }
    let (key, tensors) = found.swap_remove(chosen);
    Ok((Some(key.into()), tensors))
}

/// Why a checkpoint with both kinds of weights is refused.
fn choice(recipe: Option<&str>) -> String {
    let why = match recipe {
        Some(name) => format!("the recipe {name} has no `checkpoint_key`; set --key"),
        None => format!("set --recipe ({}), or --key", recipe::names().join(", ")),
    };
    format!(
        "the file has two sets of weights, `{GENERATOR}` and `{EMA}` (averaged), and which of them a model needs \
         depends on the model: {why}"
    )
}

fn renamed(infos: &[TensorInfo], names: Names) -> std::result::Result<BTreeMap<String, &TensorInfo>, String> {
    let in_file = || infos.iter().map(|info| info.name.as_str());
    let by_name: BTreeMap<&str, &TensorInfo> = infos.iter().map(|info| (info.name.as_str(), info)).collect();
    if names == Names::InFile {
        return Ok(by_name.into_iter().map(|(name, info)| (name.into(), info)).collect());
    }
    let part =
        names::part_of(in_file()).ok_or("the model part of these weights is unknown; keep their names")?;
    let engine = names::by_engine_names(part, in_file());
    let call = |engine_name: &str| match names {
        Names::Original => original(part, engine_name, &engine),
        _ => engine_name.to_string(),
    };
    Ok(engine
        .iter()
        .map(|(engine_name, file_name)| (call(engine_name), by_name[file_name.as_str()]))
        .collect())
}

fn original(part: Part, engine_name: &str, all: &std::collections::HashMap<String, String>) -> String {
    names::original_name(part, engine_name, all.keys().map(String::as_str))
}

/// The name in safetensors.
fn dtype_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I64 => "I64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        _ => return None,
    })
}

fn copy(from: &mut impl Read, to: &mut impl Write, mut bytes: u64) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
    while bytes > 0 {
        let length = piece.len().min(usize::try_from(bytes).unwrap_or(PIECE));
        from.read_exact(&mut piece[..length])?;
        to.write_all(&piece[..length])?;
        bytes -= length as u64;
    }
    Ok(())
}
