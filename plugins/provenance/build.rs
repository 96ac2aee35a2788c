//! Sets the version constants of the plugin.

fn main() {
    gst_plugin_version_helper::info()
}
