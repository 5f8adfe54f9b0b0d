variable "meridian" {
  description = "The meridian binary. A new one at the same path rolls the nodes, one after the other, region after region."
  type        = string
  default     = "../../target/release/meridian"

  validation {
    condition     = fileexists(var.meridian)
    error_message = "There is no such file; build it with: cargo build --release"
  }
}

variable "folder" {
  description = "Where the mesh lives: data, certificates, tokens, logs. What is there is used again."
  type        = string
  default     = "mesh"
}

variable "regions" {
  description = "Names of the regions. A region's place in the list is its number: append, never reorder."
  type        = list(string)
  default     = ["us", "eu", "asia"]

  validation {
    condition     = length(var.regions) >= 1 && length(var.regions) <= 8 && length(var.regions) == length(toset(var.regions))
    error_message = "One to eight regions, each once."
  }
}

variable "nodes" {
  description = "Nodes in each region."
  type        = number
  default     = 3

  validation {
    condition     = contains(range(1, 10), var.nodes)
    error_message = "One to nine nodes."
  }
}

variable "port_base" {
  description = "First of the mesh's ports on 127.0.0.1: 100 for each region, of these 10 for each node (Kafka, peers, admin, links)."
  type        = number
  default     = 19000
}

variable "remove_data" {
  description = "Remove the folder, with all data, on destroy."
  type        = bool
  default     = false
}
