// SPDX-License-Identifier: MPL-2.0

//! Changes of properties from outside: the structure `soragen-control`, in a custom upstream event or the action signal `control`.
//!
//! Each field is a property that may change while playing, with its new value as the property has it, as a string, or as a number. The
//! field `element`, if there is one, is the name of the element that is meant.

use gst::glib;
use gst::glib::translate::IntoGlib;
use gst::prelude::*;

/// Name of the structure.
pub const NAME: &str = "soragen-control";
/// Name of the action signal.
pub const SIGNAL: &str = "control";
/// The field with the name of the element.
const ELEMENT: &str = "element";

/// `control`: sets the properties of a structure, as the event does. Returns whether all are set.
pub fn signal() -> glib::subclass::Signal {
    glib::subclass::Signal::builder(SIGNAL)
        .action()
        .run_last()
        .param_types([gst::Structure::static_type()])
        .return_type::<bool>()
        .class_handler(|args| {
            let (element, structure) = (args[0].get::<gst::Element>(), args[1].get::<gst::Structure>());
            let accepted =
                element.is_ok_and(|element| structure.is_ok_and(|structure| apply(&element, &structure)));
            Some(accepted.to_value())
        })
        .build()
}

/// A warning that a change of `property` is refused, with the structure `soragen-refused` as its details.
pub fn refusal(element: &gst::Element, property: Option<&str>, reason: &str) -> gst::Message {
    let error = glib::Error::new(gst::LibraryError::Settings, reason);
    let mut details = gst::Structure::builder("soragen-refused").field("reason", reason).build();
    if let Some(property) = property {
        details.set("property", property);
    }
    let message = gst::message::Warning::builder_from_error(error).details(details);
    message.src(element).build()
}

/// The structure of an event for `element`; `None` if the event is another one, or for another element.
pub fn of_event<'a>(element: &gst::Element, event: &'a gst::Event) -> Option<&'a gst::StructureRef> {
    if event.type_() != gst::EventType::CustomUpstream {
        return None;
    }
    let structure = event.structure().filter(|structure| structure.name() == NAME)?;
    let is_meant = structure.get::<&str>(ELEMENT).map_or(true, |name| element.name() == name);
    is_meant.then_some(structure)
}

/// Sets the properties of `structure`. A refusal is a [`refusal`] on the bus, and the other properties are set. Returns whether all are set.
///
/// Call it without holding a lock.
pub fn apply(element: &gst::Element, structure: &gst::StructureRef) -> bool {
    let mut accepted = structure.name() == NAME;
    if !accepted {
        let reason = format!("the structure is named {}; name it {NAME}", structure.name());
        let _ = element.post_message(refusal(element, None, &reason));
    }
    for (name, value) in structure.iter().filter(|(name, _)| *name != ELEMENT) {
        if let Err(reason) = set(element, name.as_str(), value) {
            accepted = false;
            let _ = element.post_message(refusal(element, Some(name.as_str()), &reason));
        }
    }
    accepted
}

fn set(element: &gst::Element, name: &str, value: &glib::Value) -> Result<(), String> {
    let property = property(element, name)?;
    if property.flags().bits() & gst::PARAM_FLAG_MUTABLE_PLAYING.into_glib() == 0 {
        return Err(format!("{name} cannot change while playing"));
    }
    set_property(element, name, value)
}

fn property(element: &gst::Element, name: &str) -> Result<glib::ParamSpec, String> {
    element.find_property(name).ok_or_else(|| format!("there is no property {name}"))
}

/// Sets the property `name` of an element to `value`, which may be a text, or a number of another type.
///
/// # Errors
/// The reason why the property cannot have this value.
pub fn set_property(element: &gst::Element, name: &str, value: &glib::Value) -> Result<(), String> {
    let property = property(element, name)?;
    if !property.flags().contains(glib::ParamFlags::WRITABLE) {
        return Err(format!("{name} cannot be set"));
    }
    let kind = property.value_type();
    let refused = || format!("{name} cannot be {}; it needs a {kind}", shown(value));
    let converted = convert(value, &property).ok_or_else(refused)?;
    if !is_in_range(&converted, &property) {
        return Err(format!("{name} cannot be {}: it is out of range", shown(value)));
    }
    element.set_property_from_value(name, &converted);
    Ok(())
}

/// `value` as the property has it.
fn convert(value: &glib::Value, property: &glib::ParamSpec) -> Option<glib::Value> {
    let kind = property.value_type();
    if value.type_() == kind {
        return Some(value.clone());
    }
    if let Ok(text) = value.get::<&str>() {
        // The text itself where a text is wanted: it need not be quoted.
        return glib::Value::deserialize(text, kind).ok();
    }
    if is_number(value.type_()) && is_number(kind) {
        return convert_number(value, kind);
    }
    None
}

/// Whether a number is one that the property can have. Others are always.
fn is_in_range(value: &glib::Value, property: &glib::ParamSpec) -> bool {
    macro_rules! range {
        ($($spec:ty: $number:ty),+) => {
            $(if let (Some(spec), Ok(number)) = (property.downcast_ref::<$spec>(), value.get::<$number>()) {
                return (spec.minimum()..=spec.maximum()).contains(&number);
            })+
        };
    }
    range!(
        glib::ParamSpecInt: i32, glib::ParamSpecUInt: u32, glib::ParamSpecInt64: i64, glib::ParamSpecUInt64: u64,
        glib::ParamSpecFloat: f32, glib::ParamSpecDouble: f64
    );
    true
}

fn is_number(kind: glib::Type) -> bool {
    use glib::Type;
    [Type::I32, Type::U32, Type::I64, Type::U64, Type::F32, Type::F64].contains(&kind)
}

/// A number as a number of another type; `None` if that cannot be, as a fraction in whole numbers.
fn convert_number(value: &glib::Value, kind: glib::Type) -> Option<glib::Value> {
    if let Some(whole) = whole_number(value) {
        match kind {
            glib::Type::I32 => return i32::try_from(whole).ok().map(|number| number.to_value()),
            glib::Type::U32 => return u32::try_from(whole).ok().map(|number| number.to_value()),
            glib::Type::I64 => return i64::try_from(whole).ok().map(|number| number.to_value()),
            glib::Type::U64 => return u64::try_from(whole).ok().map(|number| number.to_value()),
            _ => {}
        }
    }
    // JSON may have whole numbers as f64.
    let number = value.transform::<f64>().ok()?.get::<f64>().ok()?;
    if kind == glib::Type::F64 {
        return Some(number.to_value());
    }
    let exact = value.transform_with_type(kind).ok()?;
    let back = exact.transform::<f64>().ok()?.get::<f64>().ok()?;
    (back == number).then_some(exact)
}

/// A value of a type of whole numbers.
fn whole_number(value: &glib::Value) -> Option<i128> {
    let small = value.get::<i32>().map(i128::from).or_else(|_| value.get::<u32>().map(i128::from));
    small.or_else(|_| value.get::<i64>().map(i128::from)).or_else(|_| value.get::<u64>().map(i128::from)).ok()
}

fn shown(value: &glib::Value) -> String {
    value.serialize().map_or_else(|_| "this value".into(), |text| text.to_string())
}
